"""Runs of the comparison, one record each, kept in a file of JSON lines that a run can go on from.

A method's pace is the time of its step over that of the first method's, taken in turn. The budget T
is the time of the first method with `STEPS` steps: another method then makes STEPS / pace of them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import attrs
import torch
from torch import Tensor

from align.testing.distances import sliced_w2
from benchmarks.peers.cases import Case, Method, Run

BUDGETS: Final = MappingProxyType({"T/4": 0.25, "T": 1.0, "3 T": 3.0})
MORE: Final = "T, 4 × particles"
"""The steps of T/4 with four times the particles, for methods that have a population."""
ONCE: Final = -1
"""In place of a problem, for what is measured once for all of them."""

Numbers = dict[str, Any]


@attrs.frozen
class Key:
    """What a record is of."""

    size: int
    std: float
    method: str
    budget: str
    problem: int


@attrs.frozen
class Ledger:
    """Records by their keys; each new one is written at the end of the file, if there is one."""

    file: Path | None
    records: dict[Key, Numbers] = attrs.field(factory=dict)

    @classmethod
    def of(cls, file: Path | None) -> Ledger:
        """With what the file has; a last line that was cut short is left out."""
        ledger = cls(file)
        if file is not None and file.exists():
            whole = [line for line in file.read_text().splitlines(True) if line.endswith("\n")]
            file.write_text("".join(whole))
            for record in map(json.loads, whole):
                key = Key(*(record.pop(field.name) for field in attrs.fields(Key)))
                ledger.records[key] = record
        return ledger

    def once(self, key: Key, measured: Callable[[], Numbers]) -> Numbers:
        """The record of this key, measured if there is none."""
        if key not in self.records:
            self.records[key] = numbers = measured()
            if self.file is not None:
                with self.file.open("a") as lines:
                    lines.write(f"{json.dumps(attrs.asdict(key) | numbers)}\n")
        return self.records[key]


def distance(x1: Tensor, case: Case) -> float:
    """Sliced W2 to as many exact samples, the mean over four sets of them."""
    return statistics.fmean(
        sliced_w2(x1, case.exact(len(x1), seed)) for seed in range(10_000, 10_004)
    )


def scored(run: Run, case: Case) -> Numbers:
    """Of as many samples as are wanted: distance, mean reward, time, least share of particles."""
    x1 = run.x1[torch.linspace(0, len(run.x1) - 1, case.rows).long()]
    return {
        "sw2": distance(x1, case),
        "reward": case.score(x1),
        "seconds": run.seconds,
        "particles": run.particles,
    }


def pace(method: Method, first: Method, case: Case, steps: int, rounds: int) -> Numbers:
    """Time of a step over that of the first method's: median of rounds in turn, and their range."""
    ratios, seconds = [], []
    for _ in range(rounds):
        beside = first.run(case, steps, case.rows).seconds
        seconds.append(method.run(case, steps, case.rows).seconds)
        ratios.append(seconds[-1] / beside)
    return {
        "pace": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "ms": 1e3 * statistics.median(seconds) / steps,
    }


def run(method: Method, case: Case, steps: int, rows: int) -> Numbers:
    """One run with so many steps and samples."""
    return {"steps": steps, "rows": rows, **scored(method.run(case, steps, rows), case)}


def exact(case: Case) -> Numbers:
    """Exact samples in place of a method's."""
    return scored(Run(case.exact(case.rows, seed=20_000), 0.0), case)


def measure(
    listed: Sequence[Method], cases: Sequence[Case], steps: int, rounds: int, ledger: Ledger
) -> None:
    """Measure what the ledger lacks, budget by budget and within it problem by problem.

    Args:
        listed: methods; the first one's time is everybody's budget.
        cases: problems of one size and deviation.
        steps: that the first method makes in the time T.
        rounds: of timing a method beside the first.
        ledger: is added to.
    """
    world = cases[0].size, cases[0].std
    # Its measured pace, by itself, says how far times of equal work differ.
    paces = {listed[0].name: 1.0}
    for method in listed:
        timed = partial(pace, method, listed[0], cases[0], max(2, steps // 8), rounds)
        known = ledger.once(Key(*world, method.name, "pace", ONCE), timed)
        paces.setdefault(method.name, known["pace"])
    for case in cases:
        ledger.once(Key(*world, "floor", "", case.seed), partial(exact, case))
    tries = [(budget, share, 1) for budget, share in BUDGETS.items()]
    tries.insert(2, (MORE, BUDGETS["T/4"], 4))
    for budget, share, times in tries:
        for case, method in product(cases, listed):
            if times == 1 or method.population:
                possible = max(2, round(steps * share / paces[method.name]))
                key = Key(*world, method.name, budget, case.seed)
                ledger.once(key, partial(run, method, case, possible, times * case.rows))
