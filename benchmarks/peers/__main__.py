"""Steering Gaussian mixtures by a linear measurement, beside azula and deepinv.

    python -m benchmarks.peers --size 64 --std 0.03 --results peers.jsonl
    python -m benchmarks.peers.agreement            # azula's particle filter and ours, step by step

Every method samples p(x) e^{r(x)} for the same mixtures and measurements, from the same analytic
denoiser, in one process on one thread; peers that are not installed are left out. The distance is
sliced W2 to as many exact samples; the floor is that between two exact sets. Time is that of the
processor. T is what the first method takes for 100 steps, and the other columns are for as many
steps as a method makes in a quarter of T, in T and in three times T.

With --results each run is written to a file as soon as it is done, and what the file has is not
measured again: a command that was stopped goes on, and one that is done only prints. --print
prints what there is so far.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.peers.cases import SIZES, STEPS, Case, Method
from benchmarks.peers.measure import BUDGETS, MORE, ONCE, Key, Ledger, Numbers, measure
from benchmarks.peers.methods import methods, theirs
from benchmarks.peers.samplers import azula, deepinv
from benchmarks.table import Table, parsed, parser_of, publish

COLUMNS = (*BUDGETS, MORE)


def installed(size: int) -> list[Method]:
    """The methods of `align`, and of the other libraries that are installed."""
    listed = list(methods())
    for module, samplers in (("azula", azula), ("deepinv", deepinv)):
        if importlib.util.find_spec(module):
            listed += map(theirs, samplers(size))
        else:
            print(f"{module} is not installed: left out", file=sys.stderr)
    return listed


def mean_over_problems(values: Sequence[float]) -> str:
    """Mean and its standard error; "diverges" where samples are nowhere near, "" of none."""
    if not values:
        return ""
    mean = statistics.fmean(values)
    if not mean < 10:
        return "diverges"
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{mean:.3f} ± {error:.3f}"


def seconds_of(records: dict[Key, Numbers], world: tuple[int, float]) -> float:
    """Processor time of all runs of one size and deviation."""
    of_world = (numbers for key, numbers in records.items() if (key.size, key.std) == world)
    return float(sum(numbers.get("seconds", 0.0) for numbers in of_world))


def rows_of_table(
    names: Sequence[str], world: tuple[int, float], records: dict[Key, Numbers]
) -> Iterator[tuple[str, ...]]:
    """One row a method; the lowest mean of each budget is in bold.

    A cell of fewer problems than there are says how many in brackets.
    """

    def found(name: str, budget: str, what: str) -> list[float]:
        of = (*world, name, budget)
        return [
            numbers[what]
            for key, numbers in records.items()
            if (key.size, key.std, key.method, key.budget) == of
        ]

    exact = found("floor", "", "sw2")
    floor = mean_over_problems(exact)
    reward = statistics.fmean(found("floor", "", "reward"))
    yield "floor", "", *[floor] * len(COLUMNS), f"{reward:.2f}", ""
    cells = {name: [found(name, budget, "sw2") for budget in COLUMNS] for name in names}
    # A cell of fewer problems is no match for the others: they may be easier ones.
    means = [
        [statistics.fmean(cell) for cell in column if len(cell) == len(exact)]
        for column in zip(*cells.values(), strict=True)
    ]
    lowest = [min((mean for mean in column if mean < 10), default=0.0) for column in means]
    for name in names:
        texts = [mean_over_problems(cell) for cell in cells[name]]
        for column, cell in enumerate(cells[name]):
            if 0 < len(cell) < len(exact):
                texts[column] += f" ({len(cell)})"
            if cell and statistics.fmean(cell) == lowest[column]:
                texts[column] = f"**{texts[column]}**"
        reward = statistics.fmean(found(name, "T", "reward"))
        share = min(found(name, "T", "particles"))
        yield (
            name,
            f"{records[Key(*world, name, 'pace', ONCE)]['pace']:.2f}",
            *texts,
            f"{reward:.2f}" if abs(reward) < 1e4 else "",
            "" if math.isnan(share) else f"{share:.3f}",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = parser_of("benchmarks.peers", __doc__)
    parser.add_argument("--size", type=int, choices=SIZES, default=2)
    parser.add_argument("--std", type=float, default=0.03, help="of the measurement's noise")
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument(
        "--only", default="", help="the first, and methods whose name has this in it"
    )
    parser.add_argument("--results", type=Path, help="JSON lines: one run each, kept")
    parser.add_argument(
        "--print", action="store_true", help="measure nothing: the table of what --results has"
    )
    options, command = parsed(parser, arguments)
    listed = installed(options.size)
    listed = listed[:1] + [method for method in listed[1:] if options.only in method.name]
    toy = (1, 4, 1, 16)
    problems, steps, rounds, rows = toy if options.toy else (options.problems, STEPS, 5, None)
    cases = [Case.of(options.size, options.std, seed, rows) for seed in range(problems)]
    ledger = Ledger.of(options.results)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not options.print:
            measure(listed, cases, steps, rounds, ledger)
    head = ("method", "pace", *COLUMNS, "reward", "particles")
    world, names = (options.size, options.std), [method.name for method in listed]
    seconds = seconds_of(ledger.records, world)
    title = f"D = {world[0]}, s = {world[1]:g}, {problems} problems, {seconds:.0f} s of runs"
    table = Table(title, head, rows_of_table(names, world, ledger.records))
    publish([table], command, options.page, f"peers {options.size} {options.std:g}")


if __name__ == "__main__":
    main()
