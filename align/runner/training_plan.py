"""What a training will cost, from steps that are really taken.

Rows of a step differ from each other, as the times that they are trained at are drawn. So a step is
taken with all its rows where that is quick and memory has room, and else with two of them.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import starmap
from pathlib import Path
from typing import Any, ClassVar, Final, final

import attrs
import torch
from torch import Tensor

from align.core.dataset import Dataset, DatasetSpec
from align.core.mode import AlignmentMode
from align.core.model import Domain
from align.core.problem import Problem
from align.core.streams import Streams
from align.engine.cost import Linear, LivingBytes
from align.engine.flops import counted
from align.engine.memory import DeviceMemory
from align.engine.meter import Cost, Meter, memory_now
from align.engine.rehearsal import Part
from align.training.mode import Beside, TrainingMode

_CLASSES: Final = 64  # of which a row is read
_QUICK: Final = 5.0  # seconds; a longer step is not taken with all its rows
_SHARE: Final = 0.5  # of the free memory that such a step may take
_FLOAT: Final = 4  # bytes


@final
@attrs.frozen
class FewRows(DatasetSpec):
    """A row of each class of a data set, as it lies; no latents are kept of it.

    Attributes:
        inner: the data set.
        counts: takes the number of all rows whenever they are opened.
    """

    kind: ClassVar[str] = "few_rows"

    inner: DatasetSpec
    counts: list[int] = attrs.field(factory=list)

    @property
    def domain(self) -> Domain | None:
        """That of the whole."""
        return self.inner.domain

    @property
    def name(self) -> str:
        """What messages call the whole."""
        return self.inner.name

    def open(self, colours: int) -> Dataset:
        """One row of each class."""
        whole = self.inner.open(colours)
        self.counts.append(len(whole))
        known = dict[int, int]()
        for number, label in enumerate(whole.labels.tolist()):
            known.setdefault(label, number)
        return _Few(whole, list(known.values())[:_CLASSES])


@final
@attrs.frozen(eq=False)
class _Few(Dataset):
    whole: Dataset
    numbers: Sequence[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.whole.shape

    @property
    def labels(self) -> Tensor:
        """The classes of the rows."""
        return self.whole.labels[torch.tensor(self.numbers)]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes."""
        return self.whole.classes

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """The rows of these numbers."""
        return self.whole.rows([self.numbers[number] for number in numbers])

    def row_name(self, number: int) -> str:
        """What messages call a row."""
        return self.whole.row_name(self.numbers[number])


def with_few_rows(mode: AlignmentMode[Any]) -> tuple[AlignmentMode[Any], tuple[FewRows, ...]]:
    """The mode with few rows in place of each of its data sets, and these.

    Latents that are on the disk stay as they are, since nothing is read of them but what is asked.
    """
    changes = dict[str, FewRows]()
    for field in attrs.fields(type(mode)):
        value = getattr(mode, field.name)
        if isinstance(value, DatasetSpec) and value.domain and not _is_encoded(value):
            changes[field.name] = FewRows(value)
    return (attrs.evolve(mode, **changes) if changes else mode), tuple(changes.values())


def _is_encoded(data: DatasetSpec) -> bool:
    return bool(data.latents) and (Path(data.latents) / "about.json").exists()


@final
@attrs.frozen
class TrainingCost:
    """What a training costs.

    Attributes:
        cost: all of it; its memory is what is loaded now and what comes on top.
        above: bytes beyond what is loaded.
        unread: rows of data that are read and encoded at its start, which is not timed.
    """

    cost: Cost
    above: int
    unread: int


def training_cost(
    mode: TrainingMode[Any],
    problem: Problem,
    streams: Streams,
    meter: Meter,
    seconds_of: Callable[[Part, float], float],
) -> TrainingCost:
    """Begin a training with little data, and take some of its steps, which changes its weights.

    Args:
        mode: of the run.
        problem: its parts, under guards.
        streams: of its samples.
        meter: what the guards count with.
        seconds_of: what so many rows through a part take.
    """
    few, data = with_few_rows(mode)
    assert isinstance(few, TrainingMode)
    trial = _Trial.begun(few, problem, streams, meter)
    usual, short = trial.usual_step(), few.short()
    made = short.before_steps(problem)  # which is among what was counted and timed
    more = mode.before_steps(problem).plus(mode.between_steps(problem)).plus(made, -1)
    rows = trial.rows
    for counter, taken, made_beside in zip(
        rows, usual.rows, _of_beside(more, problem), strict=True
    ):
        counter.update({name: mode.steps * count for name, count in taken.items()})
        counter.update(made_beside)
    parts: dict[Part, float] = {("model", "velocity"): more.base + more.own}
    parts |= {("model", "decode"): more.decoded}
    parts |= {("reward", term.name): more.scored for term in problem.reward.terms}
    beside = sum(starmap(seconds_of, parts.items()))
    above = trial.kept + usual.peak + _FLOAT * math.prod(problem.model.shape) * rows_of(data)
    calls, backward, reward_calls, reward_backward = map(dict, rows)
    cost = Cost(
        calls=calls,
        backward=backward,
        reward_calls=reward_calls,
        reward_backward=reward_backward,
        flops=round(usual.flops * mode.steps),
        seconds=trial.seconds + mode.steps * usual.seconds + beside,
        memory=round(memory_now(streams.device) + usual.peak),
        step_seconds=usual.seconds,
    )
    return TrainingCost(cost, round(above), rows_of(data))


@final
@attrs.frozen(eq=False)
class _Trial:
    """A training that was begun with little data.

    Attributes:
        step: takes a step with so many rows, in so many pieces.
        rows: that its beginning asked of parts, in the order of the fields of `Cost`.
        seconds: that it took.
        kept: bytes that it keeps, with the optimiser's.
    """

    mode: TrainingMode[Any]
    step: Callable[[int, int], None]
    meter: Meter
    device: torch.device
    rows: list[Counter[str]]
    seconds: float
    kept: int

    @classmethod
    def begun(
        cls, mode: TrainingMode[Any], problem: Problem, streams: Streams, meter: Meter
    ) -> _Trial:
        """Begin it, and take a first step, which makes what the optimiser keeps."""
        mode.short().init(problem, streams)  # which imports what it needs
        meter.forget()
        memory, began = _Memory(streams.device), time.perf_counter()
        with memory.watched():
            state = mode.short().init(problem, streams)
        seconds, rows = time.perf_counter() - began, _rows(meter)

        def step(batch: int, pieces: int) -> None:
            optimisation = attrs.evolve(mode.optimisation, batch=batch, grad_accumulation=pieces)
            own: TrainingMode[Any] = attrs.evolve(mode, optimisation=optimisation)
            own.optimise(problem, state, mode.steps // 2, streams)

        with memory.watched():
            step(1, 1)
        return cls(mode, step, meter, streams.device, rows, seconds, memory.now)

    def usual_step(self) -> _Step:
        """A step of the run."""
        batch, pieces = self.mode.batch, self.mode.optimisation.grad_accumulation
        one, two = (self._taken(count, 1) for count in (1, 2))
        seconds = Linear.through((1, one.seconds), (2, two.seconds)).of(batch)
        peak = Linear.through((1, one.peak), (2, two.peak)).of(batch / pieces)
        if seconds < _QUICK and peak < _SHARE * DeviceMemory(self.device).free():
            return self._taken(batch, pieces)
        rows = [Counter({k: round(batch / 2 * n) for k, n in c.items()}) for c in two.rows]
        return _Step(rows, two.flops * batch / 2, seconds, peak)

    def _taken(self, batch: int, pieces: int) -> _Step:
        """A step, which is taken twice: once watched, and once on time."""
        self.meter.forget()
        memory = _Memory(self.device)
        with memory.watched(), counted() as counter:
            self.step(batch, pieces)
        rows, began = _rows(self.meter), time.perf_counter()
        self.step(batch, pieces)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return _Step(rows, counter.total, time.perf_counter() - began, memory.peak)


@final
@attrs.frozen
class _Step:
    """What a step took: rows through parts, operations, seconds, and most bytes beside what was."""

    rows: list[Counter[str]]
    flops: float
    seconds: float
    peak: float


def rows_of(data: Sequence[FewRows]) -> int:
    """Rows of all data sets."""
    return sum(few.counts[-1] for few in data if few.counts)


def _rows(meter: Meter) -> list[Counter[str]]:
    """What was counted, in the order of the fields of `Cost`, and count anew."""
    rewards = meter.rewards
    found = [meter.calls, meter.backward, rewards.calls, rewards.backward]
    copies = [Counter(counter) for counter in found]
    meter.forget()
    return copies


def _of_beside(beside: Beside, problem: Problem) -> list[Counter[str]]:
    """What is counted of samples that are made beside the steps."""
    network = beside.base * problem.model.rows_per_velocity
    scored = {term.name: beside.scored for term in problem.reward.terms}
    calls = {k: n for k, n in (("network", network), ("decoder", beside.decoded)) if n}
    return [Counter(calls), Counter(), Counter(scored if beside.scored else {}), Counter()]


@final
class _Memory:
    """Bytes that were made while it watched and live, and the most that did."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._living = device, LivingBytes()
        self._before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch what is made in this context."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            yield
        else:
            with self._living:
                yield

    @property
    def now(self) -> int:
        """Bytes that live."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device) - self._before
        return self._living.now

    @property
    def peak(self) -> int:
        """The most that lived at once."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return self._living.peak
