"""How much faster two processes make the blocks of a run than one, start-up excluded.

Each process has one thread. A round begins when every process has made its first block, which
includes the imports and the model's weights, and ends with the last block; the rate is that of the
blocks in between, by the wall clock: run it on cores that are otherwise idle. Rounds with one and
with two processes are taken in turn; "one over one" is how far the same thing lies from itself.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from align import load_catalog
from align.core.executor import Task
from align.executors.local import Local
from align.recipe.load import load
from align.runner.worker import RunJob, tasks_of
from benchmarks.speed.timing import Sizes
from benchmarks.table import Table

RECIPE = """\
[run]
samples = {samples}
block = {block}
unsteered = 0
cache = false
out = "run"
device = "cpu"
pictures_every = 0

[model]
{model}

[sampler]
kind = "mfm"

[estimator]
kind = "stein"
draws = 2

[[reward]]
{reward}

[mode]
kind = "steer"
steps = {steps}
"""
POCKET = 'kind = "pocket"\nprompt = "A silhouette of a cat."'
CAT = 'kind = "silhouette_class"\nlabel = "cat"'
LINE = 'kind = "mixture"\nweights = [1.0]\nmeans = [[0.0, 0.0]]\nstds = [1.0]'
SUM = 'kind = "likelihood"\nmatrix = [[1.0, 0.5]]\nobserved = [1.5]\nstd = 0.5'


@attrs.define
class Clock:
    """Notes when each block is done."""

    times: list[float] = attrs.field(factory=list)

    def done(self, task: Task) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def check(self) -> None:
        """Nobody asks the run to stop."""


def tables(sizes: Sizes) -> Iterator[Table]:
    """Blocks a second by one and by two processes, and their ratio."""
    head = ("processes", "samples/s", "over one", "least", "most", "start-up, s")
    title = "toy mixture" if sizes.toy else "steering of `pocket`"
    yield Table(title, head, rows(sizes))


def rows(sizes: Sizes) -> Iterator[tuple[str, ...]]:
    """One row a number of processes."""
    numbers = (1,) if sizes.toy else (1, 2, 1)
    pairs = [[rate(n, sizes) for n in numbers] for _ in range(sizes.rounds)]
    for place, name in enumerate(("1", "2", "1, once more")[: len(numbers)]):
        ratios = [round_[place][0] / round_[0][0] for round_ in pairs]
        yield (
            name,
            f"{statistics.median(round_[place][0] for round_ in pairs):.3g}",
            f"{statistics.median(ratios):.3g}",
            f"{min(ratios):.3g}",
            f"{max(ratios):.3g}",
            f"{statistics.median(round_[place][1] for round_ in pairs):.2g}",
        )


def rate(workers: int, sizes: Sizes) -> tuple[float, float]:
    """Samples a second, and seconds until every process has made its first block."""
    blocks = 3 * workers if sizes.toy else 16
    values = {"samples": blocks * sizes.rows, "block": sizes.rows, "steps": sizes.steps}
    parts = {"model": LINE, "reward": SUM} if sizes.toy else {"model": POCKET, "reward": CAT}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.toml")
        path.write_text(RECIPE.format(**values, **parts))
        tasks = [t for t in tasks_of(load(path, catalog=load_catalog()).recipe) if t.arms]
        clock, began = Clock(), time.perf_counter()
        Local(workers=workers).run(RunJob(folder, folder, cache=False), tasks, clock)
    first, last = clock.times[workers - 1], clock.times[-1]
    return sizes.rows * (len(tasks) - workers) / (last - first), first - began
