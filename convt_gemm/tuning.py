"""Measuring the plans of a problem, once and on request, and remembering the fastest.

Nothing is ever tuned by itself. :func:`tune` measures, :func:`save_tuned` and :func:`load_tuned` keep the result over
processes, :func:`forget_tuned` goes back to the planner. What is remembered holds for exactly one problem (sizes,
dtype, layout, bias, geometry, precision) on one kind of device, and only calls with ``algorithm="auto"`` ask for it,
when they run: a CUDA graph keeps the plan that it was captured with. Two plans may differ in their last bits, so
results change where tuning changes the plan; one plan gives the same bits every time.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import _ops, functional, planning

__all__ = ["Loaded", "Measurement", "Tuning", "forget_tuned", "load_tuned", "save_tuned", "tune", "tuned_plans"]

_FORMAT_VERSION = 1
_LEAST_SAMPLE_SECONDS = 2e-3
_MOST_CALLS = 256
_TOO_SLOW = 5.0
"""A plan whose first timed call takes this many times the best one's is not measured further."""
_COMPARED_ELEMENTS = 1 << 25
_DEFAULT_CACHE_BYTES = 1 << 20
"""Stands for the size of a cache where an operator wants one; no remembered plan depends on it."""

_Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Measurement:
    """A plan and how long it took."""

    plan: str
    seconds: float
    """The median of the samples, per call."""
    predicted_seconds: float
    """The planner's estimate."""
    samples: int
    """1 if the plan was too slow to be measured further."""
    chosen: bool
    """Whether this is the plan that is remembered now."""


@dataclass(frozen=True)
class Tuning:
    """What :func:`tune` found; prints as a table."""

    problem: str
    device: str
    """The device's name."""
    precision: str
    measurements: tuple[Measurement, ...]
    """Fastest first."""

    @property
    def plan(self) -> str:
        """The name of the plan that is remembered now."""
        return self.measurements[0].plan

    def __str__(self) -> str:
        width = max(len("plan"), *(len(row.plan) for row in self.measurements))
        lines = [
            f"{self.problem}, precision {self.precision}",
            f"measured on {self.device}",
            f"   {'plan':{width}}  {'median us':>11}  {'predicted us':>12}  samples",
        ]
        for row in self.measurements:
            lines.append(
                f" {'*' if row.chosen else ' '} {row.plan:{width}}  {row.seconds * 1e6:11.1f}  "
                f"{row.predicted_seconds * 1e6:12.1f}  {row.samples:7}"
            )
        return "\n".join(lines)


class Loaded(NamedTuple):
    """What :func:`load_tuned` did with a file's entries."""

    added: int
    skipped: int
    """Entries of devices that this machine does not have."""


def tune(
    layer_or_problem: nn.Module | Mapping[str, Any],
    x: Tensor | Sequence[int] | None = None,
    *,
    precision: str | None = None,
    workspace_limit: int | None = None,
    repeats: int = 20,
) -> Tuning:
    """Measures every legal plan for a problem on its device, and remembers the fastest in this process.

    Later calls for exactly this problem with ``algorithm="auto"`` run that plan, also in compiled code; where it is not
    legal, as under a smaller workspace limit, they run the planner's choice. The plans are timed in turn on the same
    tensors, after one call each whose results have to agree. On CUDA, times are the device's, by events around replays
    of a CUDA graph of several calls; a problem that fits the cache is measured in the cache. On a CPU, times are those
    of calls. A plan whose first timed call is more than five times slower than the best is not measured further.

    Args:
        layer_or_problem, x: as in :func:`convt_gemm.explain`. Tensors given are computed with (they are not changed),
            for sizes random values stand in.
        precision: as in :func:`convt_gemm.functional.conv_transpose1d`; None takes the layer's or the problem's.
        workspace_limit: bytes; None takes the problem's or :func:`convt_gemm.get_workspace_limit`.
        repeats: samples of each plan; a sample is as many calls as take about 2 ms, and at least one.

    Raises:
        TypeError: ``layer_or_problem``, ``x`` or ``repeats`` is of the wrong type.
        ValueError: ``repeats`` is not positive, the problem has an empty batch, ``device_traits`` or an ``algorithm``
            of its own.
        RuntimeError: the arguments do not make a legal problem, or no plan serves it; there is no such device, or a
            CUDA graph is being captured; or, which is a defect of this package, a plan failed or its result differs
            from the others'. Nothing is remembered then.
    """
    if type(repeats) is not int:
        raise TypeError(f"expected repeats to be an int, but got {repeats!r}")
    if repeats < 1:
        raise ValueError(f"expected repeats to be positive, but got {repeats}")
    asked = {"precision": precision, "workspace_limit": workspace_limit}
    subject = _with(
        planning.subject_of(layer_or_problem, x),
        **{name: value for name, value in asked.items() if value is not None},
    )
    algorithm = subject.arguments.get("algorithm", "auto")
    if algorithm != "auto":
        raise ValueError(
            f"expected algorithm to be 'auto', because no other call uses a remembered plan, but got {algorithm!r}"
        )
    if subject.arguments.get("device_traits"):
        raise ValueError("expected no device_traits, because plans are measured on this machine's device")
    subject.plans()  # refuses an illegal problem before anything is allocated
    device = subject.device
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError("expected a GPU to measure on, but torch sees none")
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("expected no CUDA graph to be captured while plans are measured")
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        tensors = _tensors_of(subject)
        if tensors[0].shape[0] == 0:
            raise ValueError(f"expected a batch that is not empty, but got input of size {subject.input_size}")
        # One channel or one position is dense in both orders, which counts as the plain one.
        subject = _with(subject, channels_last=planning.is_channels_last(tensors[0]))
        plans = subject.plans()
        calls = {plan.name: _call_of(subject, tensors, plan.name) for plan in plans}
        _check_agreement(subject, tensors, calls)
        samples = _samples(calls, _CudaTimer(tensors[0].device) if device.type == "cuda" else _CpuTimer(), repeats)
    predicted = {plan.name: plan.predicted_seconds for plan in plans}
    medians = {name: statistics.median(values) for name, values in samples.items()}
    order = sorted(medians, key=lambda name: (medians[name], name))
    _remember(subject, tensors[0].device, order[0])
    return Tuning(
        problem=str(subject),
        device=_device_name(tensors[0].device),
        precision=subject.precision,
        measurements=tuple(
            Measurement(name, medians[name], predicted[name], len(samples[name]), name == order[0]) for name in order
        ),
    )


def tuned_plans() -> list[dict[str, Any]]:
    """What this process remembers, sorted: for each entry the problem, the kind of device and the plan's name."""
    return sorted(json.loads(_ops.tuned_plans()), key=_sort_key)


def forget_tuned() -> None:
    """Forgets every remembered plan of this process; files stay as they are."""
    _ops.forget_plans()


def save_tuned(path: str | os.PathLike[str]) -> None:
    """Writes what this process remembers to a JSON file, in place of what was there.

    The entries are sorted and stand one on a line, the devices' names beside them for a reader. The file is complete or
    not changed at all.

    Raises:
        OSError: the file cannot be written.
    """
    entries = tuned_plans()
    gpus = {tuple(device.items()): name for device, name in _gpus_here()}
    devices = []
    for device in dict.fromkeys(tuple(_device_of(entry).items()) for entry in entries):
        cpu = ("device", "cpu") in device
        devices.append({**dict(device), "name": _device_name(torch.device("cpu")) if cpu else gpus.get(device)})
    lists = {"devices": devices, "plans": entries}
    parts = [f'"version": {_FORMAT_VERSION}', f'"torch": {json.dumps(str(torch.__version__))}']
    for name, rows in lists.items():
        body = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        parts.append(f'"{name}": [\n{body}\n ]' if rows else f'"{name}": []')
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        temporary.write_text("{\n " + ",\n ".join(parts) + "\n}\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_tuned(path: str | os.PathLike[str]) -> Loaded:
    """Adds the entries of a file of :func:`save_tuned` to what this process remembers; the file's come before its own.

    Entries of a GPU that this machine does not have, by compute capability and number of multiprocessors, are skipped;
    those of a CPU are all taken, for the number of threads that they are for.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not one of this version, or an entry has unknown or missing keys, values of the wrong
            type, or a plan that the problem does not have. The message names the entry; nothing has been added.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, but {error}") from error
    if not isinstance(content, dict) or content.get("version") != _FORMAT_VERSION:
        found = content.get("version") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: expected version {_FORMAT_VERSION}, but got {found!r}")
    unknown = sorted(content.keys() ^ {"version", "torch", "devices", "plans"})
    if unknown or not isinstance(content["plans"], list):
        raise ValueError(
            f"{path}: expected version, torch, devices and a list of plans; unknown or missing are {unknown}"
        )
    usable = []
    gpus = [device for device, _ in _gpus_here()]
    for index, entry in enumerate(content["plans"]):
        where = f"{path}: plans[{index}]"
        _check_fields(entry, where)
        if entry["device"] == "cuda" and _device_of(entry) not in gpus:
            continue
        try:
            arguments, traits = _problem_arguments(entry), _traits_of(entry)
            # The largest of workspaces: a plan may have been found under any limit.
            legal = json.loads(_ops.conv_transpose_plans(*arguments, "auto", entry["precision"], 1 << 62, traits))
        except RuntimeError as error:
            raise ValueError(f"{where}, {json.dumps(entry)}: {error}") from error
        if entry["plan"] not in (plan["name"] for plan in legal):
            names = ", ".join(repr(plan["name"]) for plan in legal)
            raise ValueError(
                f"{where}, {json.dumps(entry)}: expected plan to be one of {names}, but got {entry['plan']!r}"
            )
        usable.append((*arguments, entry["precision"], traits, entry["plan"]))
    for arguments in usable:
        _ops.remember_plan(*arguments)
    return Loaded(added=len(usable), skipped=len(content["plans"]) - len(usable))


# --- measuring


def _tensors_of(subject: planning.Subject) -> tuple[Tensor, Tensor, Tensor | None]:
    """Dense input with a batch, weight and bias: the caller's where there are tensors, else of about unit outputs."""
    generator = torch.Generator(subject.device).manual_seed(0)

    def normal(size: Sequence[int]) -> Tensor:
        return torch.randn(tuple(size), generator=generator, device=subject.device, dtype=torch.float32)

    groups = subject.arguments.get("groups", 1)
    weight = subject.weight
    if weight is None or weight.dtype != subject.dtype or weight.device.type != subject.device.type:
        weight = (normal(subject.weight_size) / math.sqrt(_depth(subject))).to(subject.dtype)
    x = subject.input
    if x is None:
        size = subject.input_size
        x = normal(size if len(size) == weight.dim() else (1, *size)).to(subject.dtype)
        if subject.arguments.get("channels_last") and x.dim() > 3:
            x = x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    elif not planning.is_channels_last(x):
        x = x.contiguous()  # or every call would make a copy of it first
    bias = subject.bias
    if subject.arguments["bias"] and (bias is None or bias.dtype != x.dtype or bias.device != x.device):
        bias = normal((subject.weight_size[1] * groups,)).to(subject.dtype)
    return x.detach(), weight.detach().to(x.device).contiguous(), None if bias is None else bias.detach()


def _with(subject: planning.Subject, **arguments: Any) -> planning.Subject:
    return dataclasses.replace(subject, arguments={**subject.arguments, **arguments})


def _depth(subject: planning.Subject) -> int:
    """The most products that one output is the sum of."""
    return max(1, subject.weight_size[0] // subject.arguments.get("groups", 1) * math.prod(subject.weight_size[2:]))


def _call_of(subject: planning.Subject, tensors: tuple[Tensor, Tensor, Tensor | None], plan: str) -> _Call:
    """The public function on these tensors by one plan."""
    rank = len(subject.weight_size) - 2
    function = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    geometry = {name: subject.arguments[name] for name in names if name in subject.arguments}
    return functools.partial(
        function,
        *tensors,
        **geometry,
        algorithm=plan,
        precision=subject.precision,
        workspace_limit=subject.workspace_limit,
    )


def _check_agreement(
    subject: planning.Subject, tensors: tuple[Tensor, Tensor, Tensor | None], calls: Mapping[str, _Call]
) -> None:
    """Runs every plan once; raises unless all results are those of the first, up to rounding."""
    names = list(calls)
    expected = _run(subject, names[0], calls[names[0]])
    if len(names) == 1:
        return
    # Rounding is in proportion to the sum of the products' absolute values, which may be far above the result's.
    magnitudes = tuple(None if tensor is None else tensor.abs() for tensor in tensors)
    scale = _call_of(subject, magnitudes, names[0])()
    # Each result has operands rounded (by 2**-10 at most in TF32), a sum of n terms that is off by n roundings at most,
    # and an output rounded once or twice; where numbers are too small to be normal, roundings are absolute.
    storage = torch.finfo(subject.dtype)
    sums = torch.finfo(torch.float64 if subject.dtype == torch.float64 else torch.float32)
    accumulator, depth = getattr(torch, sums.dtype), _depth(subject)
    units = {"tf32": 2.0**-10, "tf32x3": 2.0**-20} if subject.dtype == torch.float32 else {}
    unit = units.get(subject.precision, storage.eps / 2)
    tolerance = 4 * unit + 2 * depth * sums.eps
    least = 2 * storage.smallest_normal * storage.eps + 2 * depth * sums.smallest_normal
    samples = max(1, _COMPARED_ELEMENTS // max(1, expected[0].numel()))
    for name in names[1:]:
        result = _run(subject, name, calls[name])
        if result.shape != expected.shape:
            raise _defect(subject, f"{name} gives size {tuple(result.shape)}, {names[0]} gives {tuple(expected.shape)}")
        parts = (tensor.split(samples) for tensor in (result, expected, scale))
        for ours, other, bound in zip(*parts, strict=True):
            allowed = bound.to(accumulator) * tolerance + least
            difference = (ours.to(accumulator) - other.to(accumulator)).abs_()
            # Where the caller's values overflow, plans may differ; a NaN elsewhere is never within the tolerance.
            wrong = ~(difference <= allowed) & allowed.isfinite()
            if wrong.any():
                where = wrong.nonzero()[0].tolist()
                raise _defect(
                    subject,
                    f"the results of {name} and {names[0]} differ in {int(wrong.sum())} elements of {wrong.numel()}, "
                    f"one of them {ours[tuple(where)].item():g} and {other[tuple(where)].item():g}, where rounding "
                    f"explains {allowed[tuple(where)].item():.3g}",
                )


def _run(subject: planning.Subject, name: str, call: _Call) -> Tensor:
    try:
        result = call()
        if result.is_cuda:
            torch.cuda.synchronize(result.device)
        return result
    except (torch.OutOfMemoryError, NotImplementedError):
        raise  # the machine's memory or a build without CUDA, not the plan's defect
    except RuntimeError as error:
        raise _defect(subject, f"{name} failed: {error}") from error


def _defect(subject: planning.Subject, what: str) -> RuntimeError:
    return RuntimeError(f"{what}. This is a defect of convt_gemm; the problem is {subject}, {subject.arguments}")


class _CpuTimer:
    """perf_counter around calls."""

    def once(self, call: _Call) -> float:
        return self.prepare(call, 1)()

    def prepare(self, call: _Call, count: int) -> Callable[[], float]:
        """A function that takes one sample: seconds per call, over ``count`` calls."""

        def sample() -> float:
            start = time.perf_counter()
            for _ in range(count):
                call()
            return (time.perf_counter() - start) / count

        return sample


class _CudaTimer:
    """Events around calls, or around replays of a CUDA graph of calls, so that the host's time does not count."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        # The graphs are replayed one after the other and nobody reads their outputs: they may share their memory.
        self._pool = torch.cuda.graph_pool_handle()

    def once(self, call: _Call) -> float:
        with torch.cuda.device(self.device):
            return self._seconds(call)

    def prepare(self, call: _Call, count: int) -> Callable[[], float]:
        """A function that takes one sample: seconds per call, over ``count`` calls."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                call()  # what a library allocates for a stream at its first use must not be captured
            self._stream.synchronize()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                for _ in range(count):
                    call()

        def sample() -> float:
            with torch.cuda.device(self.device):
                return self._seconds(graph.replay) / count

        return sample

    @staticmethod
    def _seconds(work: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def _samples(calls: Mapping[str, _Call], timer: _CpuTimer | _CudaTimer, repeats: int) -> dict[str, list[float]]:
    """Seconds per call of each plan that is worth it, the plans in turn; one figure of those that are too slow."""
    first = {name: max(timer.once(call), 1e-9) for name, call in calls.items()}
    best = min(first.values())
    samples = {name: [seconds] for name, seconds in first.items()}
    kept = [name for name, seconds in first.items() if seconds <= _TOO_SLOW * best]
    take = {}
    for name in kept:
        count = min(_MOST_CALLS, math.ceil(_LEAST_SAMPLE_SECONDS / first[name]))
        take[name] = timer.prepare(calls[name], count)
        take[name]()  # warms up
        samples[name] = []
    for index in range(repeats):
        # Every other round in reverse, so that no plan always follows the same one.
        for name in kept if index % 2 == 0 else reversed(kept):
            samples[name].append(take[name]())
    return samples


# --- entries


_FIELDS: dict[str, type] = {
    "device": str,
    "dtype": str,
    "precision": str,
    "channels_last": bool,
    "input_size": list,
    "weight_size": list,
    "bias": bool,
    "stride": list,
    "padding": list,
    "output_padding": list,
    "groups": int,
    "dilation": list,
    "plan": str,
}
_DEVICE_FIELDS = {"cpu": ("threads",), "cuda": ("compute_capability", "multiprocessors")}


def _remember(subject: planning.Subject, device: torch.device, plan: str) -> None:
    names = ("bias", "stride", "padding", "output_padding", "groups", "dilation", "dtype", "channels_last", "device")
    arguments = {name: subject.arguments[name] for name in names if name in subject.arguments}
    _ops.remember_plan(
        *planning.problem_arguments(subject.input_size, subject.weight_size, **arguments),
        subject.precision,
        planning.traits_of(device),
        plan,
    )


def _check_fields(entry: Any, where: str) -> None:
    """Raises ValueError unless the keys are right and every value is of its type."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected an object, but got {entry!r}")
    where = f"{where}, {json.dumps(entry)}"
    device = entry.get("device")
    if not isinstance(device, str) or device not in _DEVICE_FIELDS:
        raise ValueError(f"{where}: expected device to be 'cpu' or 'cuda', but got {device!r}")
    fields = {**_FIELDS, **dict.fromkeys(_DEVICE_FIELDS[device], int)}
    wrong = sorted(entry.keys() ^ fields.keys())
    if wrong:
        raise ValueError(f"{where}: unknown or missing keys {wrong}")
    for name, kind in fields.items():
        value = entry[name]
        legal = type(value) is kind and (kind is not list or all(type(number) is int for number in value))
        numbers = value if kind is list else [value] if kind is int else []
        if not legal or any(not -(2**63) <= number < 2**63 for number in numbers):
            raise ValueError(f"{where}: expected {name} to be of type {kind.__name__}, but got {value!r}")


def _problem_arguments(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("input_size", "weight_size", "bias", "stride", "padding", "output_padding", "groups", "dilation", "dtype")
    return tuple(entry[name] for name in (*names, "channels_last", "device"))


def _traits_of(entry: Mapping[str, Any]) -> list[int]:
    return [*(entry[name] for name in _DEVICE_FIELDS[entry["device"]]), _DEFAULT_CACHE_BYTES]


def _device_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What says which devices an entry is for."""
    return {name: entry[name] for name in ("device", *_DEVICE_FIELDS[entry["device"]])}


def _sort_key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("dtype", "channels_last", "weight_size", "input_size", "stride", "padding", "output_padding", "groups")
    return (
        *_device_of(entry).values(),
        len(entry["weight_size"]),
        *(entry[name] for name in (*names, "dilation", "bias", "precision")),
    )


def _gpus_here() -> list[tuple[dict[str, Any], str]]:
    """The kinds of GPUs of this machine, as entries name them, and their names."""
    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.device("cuda", index)
        capability, multiprocessors, _ = planning.traits_of(device)
        kind = {"device": "cuda", "compute_capability": capability, "multiprocessors": multiprocessors}
        devices.append((kind, _device_name(device)))
    return devices


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(itertools.chain(names, ["CPU"]))
