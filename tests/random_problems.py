"""Random problems on a GPU: what the planner takes, beside its other plans and PyTorch's cuDNN path; by CUDA graphs.

Says how far the planner's choice is from the best plan that was measured (the first few in its order, and the first of
each family), and how PyTorch does. ``--json`` keeps every time, to fit the planner's constants to.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import torch

from convt_gemm import functional
from convt_gemm.planning import Plan, enumerate_plans

PRECISIONS = {
    torch.float32: ("tf32", "tf32x3"),
    torch.bfloat16: ("ieee",),
}
KERNELS = [  # kernel, stride, padding, dilation
    (1, 1, 0, 1), (2, 2, 0, 1), (3, 1, 1, 1), (3, 1, 2, 2), (4, 2, 1, 1), (5, 2, 2, 1), (7, 3, 2, 1), (8, 4, 2, 1), (9, 1, 4, 1),
    (10, 5, 2, 1), (12, 6, 3, 1), (16, 8, 4, 1), (20, 10, 5, 1), (41, 1, 20, 1),
]  # fmt: skip
MOST_WEIGHTS, MOST_ELEMENTS = 2e7, 1e8
LARGEST_KERNEL_OF_SEVERAL_AXES = 9
LOG2_LARGEST_INPUT = {1: 15.0, 2: 7.5, 3: 5.0}


@dataclass
class Problem:
    rank: int
    batch: int
    in_channels: int
    out_channels: int
    groups: int
    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    dtype: torch.dtype
    precision: str
    predicted: dict[str, float] = field(default_factory=dict)
    """Microseconds by the planner's model of each plan that was measured, best first."""
    measured: dict[str, float] = field(default_factory=dict)
    """Microseconds by plan."""
    pytorch: float = math.nan

    def geometry(self) -> dict[str, int]:
        return {key: getattr(self, key) for key in ("stride", "padding", "groups", "dilation")}

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        weight = (self.in_channels, self.out_channels // self.groups, *(self.kernel,) * self.rank)
        return (self.batch, self.in_channels, *(self.size,) * self.rank), weight

    def is_fit(self) -> bool:
        outputs = (self.size - 1) * self.stride - 2 * self.padding + self.dilation * (self.kernel - 1) + 1
        of_groups = self.in_channels % self.groups == 0 and self.out_channels % self.groups == 0
        if outputs <= 0 or not of_groups or (self.rank > 1 and self.kernel > LARGEST_KERNEL_OF_SEVERAL_AXES):
            return False
        input_shape, weight_shape = self.shapes()
        output = self.batch * self.out_channels * outputs**self.rank
        return math.prod(weight_shape) <= MOST_WEIGHTS and max(math.prod(input_shape), output) <= MOST_ELEMENTS

    def ratio(self) -> float:
        """PyTorch's time over that of the planner's choice."""
        return self.pytorch / self.measured[next(iter(self.predicted))]

    def loss(self) -> float:
        """The choice's time over the best plan's."""
        return self.measured[next(iter(self.predicted))] / min(self.measured.values())

    def __str__(self) -> str:
        name = f"{self.rank}-D N{self.batch} {self.in_channels}->{self.out_channels} I{self.size} K{self.kernel}"
        name += (
            f" S{self.stride} P{self.padding} D{self.dilation} G{self.groups} {str(self.dtype)[6:]} {self.precision}"
        )
        best = min(self.measured, key=self.measured.__getitem__)
        choice = next(iter(self.predicted))
        return (
            f"{name}: {choice} {self.measured[choice]:.1f} us (predicted {self.predicted[choice]:.1f}), "
            f"{best} {self.measured[best]:.1f} us, PyTorch {self.pytorch:.1f} us"
        )


def draw(generator: random.Random) -> Problem:
    while True:
        rank = generator.choice((1, 1, 1, 2, 2, 3))
        dtype = generator.choice(list(PRECISIONS))
        in_channels = generator.choice((4, 16, 32, 64, 96, 128, 256, 512, 768, 1024))
        out_channels = generator.choice((1, 3, 8, 16, 32, 64, 128, 256, 512))
        groups = generator.choice((*(1,) * 8, 2, 4, in_channels))
        if groups == in_channels:
            out_channels = in_channels
        size = int(2 ** generator.uniform(0, LOG2_LARGEST_INPUT[rank]))
        problem = Problem(
            rank,
            generator.choice((1, 1, 2, 4, 16, 64)),
            in_channels,
            out_channels,
            groups,
            size,
            *generator.choice(KERNELS),
            dtype,
            generator.choice(PRECISIONS[dtype]),
        )
        if problem.is_fit():
            return problem


def family(plan: Plan) -> str:
    """What a plan's name begins with, up to its dtype or precision."""
    return plan.name.split("_bfloat16")[0].split("_float32")[0].split("_tf32")[0]


def worth_measuring(plans: list[Plan], first: int) -> Iterator[Plan]:
    seen = set()
    for index, plan in enumerate(plans):
        slow = plan.predicted_seconds > 2 * plans[0].predicted_seconds + 5e-6
        if (index < first or family(plan) not in seen) and (index == 0 or not slow):
            yield plan
        seen.add(family(plan))


def graph_microseconds(call: Callable[[], object], estimate: float) -> float:
    """Device time of one call among several in a graph, the lower quartile of nine replays."""
    calls = max(2, min(40, int(1e-3 / estimate)))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    times = []
    for _ in range(9):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / calls * 1e3)
    return sorted(times)[2]


@torch.no_grad()
def measure(problem: Problem, most_seconds: float) -> bool:
    """False if the planner thinks that the problem takes longer."""
    geometry, shapes = problem.geometry(), problem.shapes()
    plans = enumerate_plans(*shapes, **geometry, dtype=problem.dtype, device="cuda", precision=problem.precision)
    predicted = plans[0].predicted_seconds
    if predicted > most_seconds:
        return False
    x, weight = (torch.randn(shape, device="cuda", dtype=problem.dtype) for shape in shapes)
    ours = getattr(functional, f"conv_transpose{problem.rank}d")
    theirs = getattr(torch.nn.functional, f"conv_transpose{problem.rank}d")
    for plan in worth_measuring(plans, 4):
        problem.predicted[plan.name] = plan.predicted_seconds * 1e6
        options = {"algorithm": plan.name, "precision": problem.precision}
        problem.measured[plan.name] = graph_microseconds(
            lambda options=options: ours(x, weight, **geometry, **options), plan.predicted_seconds
        )
    torch.backends.cudnn.allow_tf32 = problem.precision == "tf32"
    problem.pytorch = graph_microseconds(lambda: theirs(x, weight, **geometry), 3 * predicted)
    return True


def report(problems: list[Problem]) -> None:
    mean = statistics.geometric_mean
    print(f"{len(problems)} problems; choice / best plan: {mean(p.loss() for p in problems):.3f}")
    for name, some in (
        ("stride 1", [p for p in problems if p.stride == 1]),
        ("one axis, stride >= 2", [p for p in problems if p.stride > 1 and p.rank == 1]),
        ("several axes, stride >= 2", [p for p in problems if p.stride > 1 and p.rank > 1]),
    ):
        if some:
            slower = sum(p.ratio() < 1 for p in some)
            print(f"{name}: PyTorch / ours {mean(p.ratio() for p in some):.2f}, slower {slower} of {len(some)}")
    print("Farthest from the best plan:")
    for problem in sorted(problems, key=Problem.loss, reverse=True)[:15]:
        print(f"  {problem.loss():.2f} {problem}")
    print("Farthest behind PyTorch:")
    for problem in sorted(problems, key=Problem.ratio)[:15]:
        print(f"  {problem.ratio():.2f} {problem}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="to measure for (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the problems (default: %(default)s)")
    parser.add_argument("--most", type=float, default=120, help="microseconds, predicted (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="where to keep all problems and times")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    generator = random.Random(options.seed)
    problems = []
    begin = time.monotonic()
    while time.monotonic() - begin < options.seconds:
        problem = draw(generator)
        if measure(problem, options.most * 1e-6):
            problems.append(problem)
    if options.json:
        with open(options.json, "w") as file:
            json.dump([asdict(problem) | {"dtype": str(problem.dtype)} for problem in problems], file)
    report(problems)


if __name__ == "__main__":
    main()
