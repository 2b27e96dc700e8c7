"""Steering Gaussian mixtures by a linear measurement, beside azula and deepinv.

    python -m benchmarks.peers --size 2 --std 0.15
    python -m benchmarks.peers.agreement            # azula's particle filter and ours, step by step

Every method samples p(x) e^{r(x)} for the same mixtures and measurements, from the same analytic
denoiser, in one process on one thread; peers that are not installed are left out. The distance is
sliced W2 to as many exact samples; the floor is that between two exact sets. Time is that of the
processor, for a step of all samples together, and as a share of the first method's. The second
distance is for as many steps, or for a particle filter particles, as take the first method's time.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
import warnings
from collections.abc import Iterator, Sequence

import attrs
import torch

from align.testing.distances import sliced_w2
from benchmarks.peers.cases import SIZES, STEPS, Case, Method, Run
from benchmarks.peers.methods import methods, theirs
from benchmarks.peers.samplers import azula, deepinv
from benchmarks.table import Table, parsed, parser_of, publish


def runs(method: Method, cases: list[Case], steps: int, rows: int) -> list[Run]:
    """One run a case; of more samples than the other rows have, that many are kept."""
    wanted = SIZES[cases[0].matrix.shape[1]][1]
    made = [method.run(case, steps, rows) for case in cases]
    kept = torch.linspace(0, rows - 1, wanted).long()
    return [attrs.evolve(run, x1=run.x1[kept]) for run in made]


def distances(found: list[Run], cases: list[Case]) -> list[float]:
    """Sliced W2 to exact samples, the mean over four sets of them, one number a case."""
    return [
        statistics.fmean(
            sliced_w2(run.x1, case.exact(len(run.x1), seed)) for seed in range(10_000, 10_004)
        )
        for run, case in zip(found, cases, strict=True)
    ]


def mean_over_cases(values: list[float]) -> str:
    """Mean and its standard error over the cases."""
    mean = f"{statistics.fmean(values):.3f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.3f}"


def reward(found: list[Run], cases: list[Case]) -> str:
    """Mean reward over samples and cases."""
    means = (case.score(run.x1) for run, case in zip(found, cases, strict=True))
    return f"{statistics.fmean(means):.2f}"


def in_equal_time(method: Method, cases: list[Case], more: float, steps: int) -> str:
    """Distances with `more` times the steps or, of a population, particles: the better of them."""
    rows = SIZES[cases[0].matrix.shape[1]][1]
    tries = [(max(2, round(steps * more)), rows)]
    if method.population:
        tries.append((steps, max(2, round(rows * more))))
    return mean_over_cases(
        min((distances(runs(method, cases, *one), cases) for one in tries), key=sum)
    )


def rows_of_table(listed: list[Method], cases: list[Case], steps: int) -> Iterator[tuple[str, ...]]:
    """One row a method; the first is the one that others are given the time of."""
    rows = SIZES[cases[0].matrix.shape[1]][1]
    truths = [Run(case.exact(rows, seed=20_000), 0.0) for case in cases]
    floor = mean_over_cases(distances(truths, cases))
    yield "floor", floor, "", reward(truths, cases), "", "", "", ""
    for method in listed:
        found = runs(method, cases, steps, rows)
        seconds = statistics.median(run.seconds for run in found)
        # The machine's pace changes within minutes: the first one is timed again beside each.
        beside = statistics.median(run.seconds for run in runs(listed[0], cases[:3], steps, rows))
        equal = in_equal_time(method, cases, beside / seconds, steps) if method.peer else ""
        shares = (min(getattr(run, kind) for run in found) for kind in ("particles", "draws"))
        yield (
            method.name,
            mean_over_cases(distances(found, cases)),
            equal,
            reward(found, cases),
            *("" if math.isnan(share) else f"{share:.3f}" for share in shares),
            f"{1e3 * seconds / steps:.1f}",
            f"{seconds / beside:.2f}",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = parser_of("benchmarks.peers", __doc__)
    parser.add_argument("--size", type=int, choices=SIZES, default=2)
    parser.add_argument("--std", type=float, default=0.15, help="of the measurement's noise")
    parser.add_argument("--problems", type=int, default=5)
    parser.add_argument(
        "--only", default="", help="the first, and methods whose name has this in it"
    )
    options, command = parsed(parser, arguments)
    listed = list(methods(options.size))
    for module, samplers in (("azula", azula), ("deepinv", deepinv)):
        if importlib.util.find_spec(module):
            listed += map(theirs, samplers())
        else:
            print(f"{module} is not installed: left out", file=sys.stderr)
    listed = listed[:1] + [method for method in listed[1:] if options.only in method.name]
    problems, steps = (1, 2) if options.toy else (options.problems, STEPS)
    cases = [Case.of(options.size, options.std, seed) for seed in range(problems)]
    head = ("method", "SW2", "SW2 in equal time", "reward", "particles", "draws", "ms/step", "time")
    title = f"D = {options.size}, std = {options.std:g}, {problems} problems"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = Table(title, head, rows_of_table(listed, cases, steps))
        publish([table], command, options.page, f"peers {options.size} {options.std:g}")


if __name__ == "__main__":
    main()
