"""Timing several contestants against each other on the same tensors, interleaved, by medians."""

from __future__ import annotations

import math
import statistics
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from .tensors import Tensors

Call = Callable[[Tensors], torch.Tensor]


@dataclass(frozen=True)
class Timing:
    """Seconds of one contestant.

    ``seconds`` is the figure to compare: on CUDA the device's time per call in the replay of a CUDA graph, on a CPU the
    time of a call. ``plain_seconds`` is the time per call outside a graph, ``host_seconds`` what a call keeps the
    host busy (both None on a CPU, where all three would be the same). ``spread`` is the interquartile range of the
    samples over their median, ``samples`` their number, ``calls_per_sample`` how many calls each averages.
    """

    seconds: float
    spread: float
    samples: int
    calls_per_sample: int
    plain_seconds: float | None = None
    host_seconds: float | None = None


class Timer(ABC):
    """Measures every contestant for about ``budget`` seconds."""

    least_samples = 5
    most_samples = 300

    def __init__(self, budget: float) -> None:
        self.budget = budget

    @abstractmethod
    def measure(self, contestants: Mapping[str, Call], tensors: Tensors) -> dict[str, Timing]:
        """Times ``contestants`` on ``tensors``, or on copies of them, and returns their timings by name.

        Raises:
            UnstableResultError: a timed call gave other bits than a plain one, where the timer can see it.
        """

    def rounds(self, seconds_per_round: float, contestants: int) -> int:
        """How many rounds over all contestants the budget pays for."""
        wanted = self.budget * contestants / max(seconds_per_round, 1e-9)
        return int(min(self.most_samples, max(self.least_samples, wanted)))


class UnstableResultError(RuntimeError):
    """A contestant's result changed between a plain call and the replay of a CUDA graph."""


def make_timer(device: torch.device, budget: float, stable: Sequence[str] = ()) -> Timer:
    """The timer for the kind of device. ``stable`` names contestants that have to give the same bits every time."""
    return CudaTimer(device, budget, stable) if device.type == "cuda" else CpuTimer(budget)


class CpuTimer(Timer):
    """perf_counter around a few calls at a time."""

    least_sample_seconds = 1e-3

    def measure(self, contestants: Mapping[str, Call], tensors: Tensors) -> dict[str, Timing]:
        estimates = {name: self._warm_up(call, tensors) for name, call in contestants.items()}
        calls = {name: max(1, math.ceil(self.least_sample_seconds / seconds)) for name, seconds in estimates.items()}
        per_round = sum(estimates[name] * calls[name] for name in contestants)
        samples: dict[str, list[float]] = {name: [] for name in contestants}
        for index in range(self.rounds(per_round, len(contestants))):
            for name in _in_turn(contestants, index):
                samples[name].append(_host_seconds(contestants[name], [tensors], calls[name]))
        return {name: _timing(values, calls[name]) for name, values in samples.items()}

    @staticmethod
    def _warm_up(call: Call, tensors: Tensors) -> float:
        return min(_host_seconds(call, [tensors], 1) for _ in range(3))


class CudaTimer(Timer):
    """CUDA events around CUDA-graph replays, over as many copies of the tensors as it takes to miss the L2 cache."""

    # Long beside the microseconds that launching a graph takes.
    least_replay_seconds = 3e-3
    most_calls = 2048
    most_copies = 256
    plain_rounds = 9

    def __init__(self, device: torch.device, budget: float, stable: Sequence[str] = ()) -> None:
        super().__init__(budget)
        self.device = device
        self.stable = frozenset(stable)

    def measure(self, contestants: Mapping[str, Call], tensors: Tensors) -> dict[str, Timing]:
        first = next(iter(contestants.values()))(tensors)
        rotation = self._rotation(tensors, first)
        del first
        graphs = {name: self._capture(name, call, rotation) for name, call in contestants.items()}
        per_round = sum(self._replay_seconds(graph) for graph in graphs.values())
        events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in graphs}
        for index in range(self.rounds(per_round, len(graphs))):
            for name in _in_turn(graphs, index):
                events[name].append(graphs[name].replay())
        torch.cuda.synchronize(self.device)
        calls = {name: graph.calls for name, graph in graphs.items()}
        samples = {name: [_event_seconds(pair) / calls[name] for pair in pairs] for name, pairs in events.items()}
        del graphs
        plain = self._plain(
            contestants, rotation, {name: statistics.median(values) for name, values in samples.items()}
        )
        return {name: _timing(values, calls[name], *plain[name]) for name, values in samples.items()}

    def _rotation(self, tensors: Tensors, output: torch.Tensor) -> list[Tensors]:
        """Copies of the tensors that together, outputs included, are twice as large as the L2 cache."""
        cache = torch.cuda.get_device_properties(self.device).L2_cache_size
        present = [tensors.input, tensors.weight, output]
        footprint = max(1, sum(tensor.numel() * tensor.element_size() for tensor in present))
        copies = min(self.most_copies, math.ceil(2 * cache / footprint))
        return [tensors, *(tensors.clone() for _ in range(copies - 1))]

    def _capture(self, name: str, call: Call, rotation: Sequence[Tensors]) -> _CapturedCalls:
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                expected = call(rotation[0])
        torch.cuda.synchronize(self.device)
        captured = _CapturedCalls(call, rotation, len(rotation))
        # Outside of a graph a small call would take as long as the host needs for it.
        estimate = max(self._replay_seconds(captured) / captured.calls, 1e-6)
        calls = min(self.most_calls, math.ceil(self.least_replay_seconds / estimate))
        if calls > captured.calls:
            del captured  # first: its outputs
            captured = _CapturedCalls(call, rotation, calls)
        if name in self.stable and not captured.gives(expected):
            raise UnstableResultError(f"{name}: the replay of a CUDA graph gave other bits than a plain call")
        return captured

    def _replay_seconds(self, graph: _CapturedCalls) -> float:
        graph.replay()
        pair = graph.replay()
        torch.cuda.synchronize(self.device)
        return _event_seconds(pair)

    def _plain(
        self, contestants: Mapping[str, Call], rotation: Sequence[Tensors], seconds: Mapping[str, float]
    ) -> dict[str, tuple[float, float]]:
        """Seconds per call and host seconds per call, without a graph."""
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for index in range(self.plain_rounds):
            for name in _in_turn(contestants, index):
                # Few enough calls that the launch queue never fills: a full queue would count as host time.
                calls = 20 if seconds[name] < 1e-3 else 3
                torch.cuda.synchronize(self.device)
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                host = _host_seconds(contestants[name], rotation, calls)
                end.record()
                torch.cuda.synchronize(self.device)
                samples[name].append((_event_seconds((start, end)) / calls, host))
        return {
            name: (statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs))
            for name, pairs in samples.items()
        }


class _CapturedCalls:
    """Several calls over a rotation of tensors in one CUDA graph."""

    def __init__(self, call: Call, rotation: Sequence[Tensors], calls: int) -> None:
        self.calls = calls
        self._graph = torch.cuda.CUDAGraph()
        # As many outputs stay alive as there are inputs: a call must not find its output in the cache already.
        outputs: deque[torch.Tensor] = deque(maxlen=len(rotation))
        with torch.cuda.graph(self._graph):
            for index in range(calls):
                outputs.append(call(rotation[index % len(rotation)]))
        self._last_output = outputs[-1]
        self._outputs = outputs

    def replay(self) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self._graph.replay()
        end.record()
        return start, end

    def gives(self, expected: torch.Tensor) -> bool:
        """Whether a replay over an output full of NaN leaves exactly ``expected`` there."""
        self._last_output.fill_(math.nan)
        self._graph.replay()
        return torch.equal(self._last_output, expected)


def peak_extra_bytes(call: Call, tensors: Tensors, device: torch.device) -> int | None:
    """Device memory that a call holds at its peak beyond its tensors and its result; None on a CPU.

    Counted by PyTorch's caching allocator, which both contestants take their workspace from.
    """
    if device.type != "cuda":
        return None
    call(tensors)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    output = call(tensors)
    torch.cuda.synchronize(device)
    kept = torch.cuda.memory_allocated(device) - before
    peak = torch.cuda.max_memory_allocated(device) - before
    del output
    return peak - kept


def _in_turn(contestants: Mapping[str, object], index: int) -> list[str]:
    """The names, every other round in reverse, so that no contestant always follows the same one."""
    names = list(contestants)
    return names if index % 2 == 0 else names[::-1]


def _host_seconds(call: Call, rotation: Sequence[Tensors], calls: int) -> float:
    start = time.perf_counter()
    for index in range(calls):
        call(rotation[index % len(rotation)])
    return (time.perf_counter() - start) / calls


def _event_seconds(pair: tuple[torch.cuda.Event, torch.cuda.Event]) -> float:
    return pair[0].elapsed_time(pair[1]) / 1e3


def _timing(samples: Sequence[float], calls: int, plain: float | None = None, host: float | None = None) -> Timing:
    median = statistics.median(samples)
    low, _, high = statistics.quantiles(samples, n=4)
    return Timing(median, (high - low) / median, len(samples), calls, plain, host)
