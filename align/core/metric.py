"""Metrics: numbers about a set of samples, measured after a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Final, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.attribution import attributed, seen
from align.core.errors import ContractError, PartError
from align.core.model import Domain


@attrs.frozen(kw_only=True)
class Metric(ABC):
    """Measures decoded samples.

    A subclass states a property either as a class attribute, or as a property where it depends on
    the options.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def domain(self) -> Domain | None:
        """The kind of data that it measures; None for both."""

    @property
    @abstractmethod
    def needs_references(self) -> bool:
        """Whether `compute` must be given references."""

    def prepare(self, device: torch.device) -> None:
        """Load what it needs to measure samples on a device, before any are made.

        A run calls it first, so that weights that are missing cost no samples; what is called
        without it loads what it needs then. The default needs nothing.

        Raises:
            PartError: weights or references cannot be used.
        """
        return

    @abstractmethod
    def compute(self, samples: Tensor, references: Tensor | None) -> dict[str, float]:
        """Named numbers for samples (B, ...) beside references (R, ...) of the same kind."""


State: TypeAlias = "Mapping[str, Tensor]"
"""What a metric keeps of some samples: sums, as a rule, or features of each."""


@attrs.frozen(kw_only=True)
class StreamedMetric(Metric):
    """A metric that keeps of samples what adds up, so that they need never be in memory together.

    `compute` follows from the three methods.
    """

    @abstractmethod
    def update(self, samples: Tensor) -> State:
        """What is kept of decoded samples (B, ...), B >= 1."""

    @abstractmethod
    def merge(self, states: Sequence[State]) -> State:
        """What `update` would keep of all samples together, rounding aside; at least one state."""

    @abstractmethod
    def finish(self, state: State, references: State | None) -> dict[str, float]:
        """Named numbers for samples beside references, if there are any.

        Raises:
            PartError: there are no references, and the metric needs them; or too few of either.
        """

    def compute(self, samples: Tensor, references: Tensor | None) -> dict[str, float]:
        """Named numbers for samples (B, ...) beside references (R, ...) of the same kind."""
        given = None if references is None else self.update(references)
        return self.finish(self.update(samples), given)


_ROWS: Final = "rows"


def prepare_metric(metric: Metric, device: torch.device) -> None:
    """Have a metric load what it needs; see `Metric.prepare`.

    Raises:
        PartError: weights or references cannot be used.
    """
    with attributed(f"metric '{metric.kind}'"):
        metric.prepare(device)


def update_metric(metric: Metric, samples: Tensor) -> State:
    """What is kept of samples (B, ...) for `finish_metric`: they themselves, unless they add up.

    Raises:
        ContractError: the metric keeps something else than tensors by name.
        PartError: the metric raised something else than a message to the user.
    """
    if not isinstance(metric, StreamedMetric):
        return {_ROWS: samples.detach().cpu()}
    with attributed(f"metric '{metric.kind}'"):
        return _state(metric, metric.update(samples.clone()))


def merge_metric(metric: Metric, states: Sequence[State]) -> State:
    """What is kept of several sets of samples together.

    Raises:
        ContractError: as `update_metric`.
        PartError: as `update_metric`; or samples of several sizes cannot be kept together.
    """
    if len(states) == 1:
        return states[0]
    if not isinstance(metric, StreamedMetric):
        if len({state[_ROWS].shape[1:] for state in states}) > 1:
            raise PartError(f"metric '{metric.kind}' takes samples of one size alone")
        return {_ROWS: torch.cat([state[_ROWS] for state in states])}
    with attributed(f"metric '{metric.kind}'"):
        return _state(metric, metric.merge(states))


@final
@attrs.define(eq=False)
class MergedStates:
    """What is kept of many small sets together, added one after the other.

    Sets of about equal size are merged, as in a sum by halves: each is so merged a logarithmic
    number of times, and what grows with the samples is copied as seldom.
    """

    metric: Metric
    _waiting: list[tuple[int, State]] = attrs.field(factory=list, init=False)

    def add(self, state: State) -> None:
        """Add what `update_metric` keeps of the samples that come next."""
        count = 1
        while self._waiting and self._waiting[-1][0] == count:
            state = merge_metric(self.metric, [self._waiting.pop()[1], state])
            count *= 2
        self._waiting.append((count, state))

    def state(self) -> State:
        """What is kept of all samples; at least one state was added."""
        return merge_metric(self.metric, [state for _, state in self._waiting])


def finish_metric(metric: Metric, state: State, references: State | None) -> dict[str, float]:
    """The numbers of what was kept of samples, beside what was kept of references.

    The metric is given references only where it needs them; errors as of `compute_metric`.
    """
    given = references if metric.needs_references else None
    if not isinstance(metric, StreamedMetric):
        return compute_metric(metric, state[_ROWS], None if given is None else given[_ROWS])
    with attributed(who := f"metric '{metric.kind}'"):
        return _numbers(who, metric.finish(state, given))


def _state(metric: Metric, state: object) -> State:
    who = f"metric '{metric.kind}'"
    if not isinstance(state, Mapping):
        raise ContractError(f"{who} keeps {seen(state)}, expected tensors by name")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ContractError(f"{who} keeps {name!r}: {seen(tensor)}, expected a tensor")
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


def compute_metric(metric: Metric, samples: Tensor, references: Tensor | None) -> dict[str, float]:
    """What `metric.compute` returns, checked; the metric sees copies.

    Args:
        metric: what is computed.
        samples: decoded, (B, ...).
        references: of the same kind, (R, ...); handed on only where the metric needs them.

    Raises:
        ContractError: the result is no table of numbers.
        PartError: the metric raised something else than a message to the user.
    """
    who = f"metric '{metric.kind}'"
    with attributed(who):
        given = references.clone() if references is not None and metric.needs_references else None
        numbers = metric.compute(samples.clone(), given)
        return _numbers(who, numbers)


def _numbers(who: str, numbers: object) -> dict[str, float]:
    """What a metric returned, if it is numbers by name."""
    if not isinstance(numbers, Mapping):
        raise ContractError(f"{who} returned {seen(numbers)}, expected numbers by name")
    for name, number in numbers.items():
        if not isinstance(name, str) or isinstance(number, str):
            raise ContractError(f"{who} returned {name!r}: {number!r}, expected a number")
    return {name: float(number) for name, number in numbers.items()}


def named_apart(
    arms: Sequence[Sequence[Mapping[str, float]]], taken: Collection[str] = ()
) -> list[dict[str, float]]:
    """The numbers of all metrics of each arm, those of one name with a number behind it.

    Args:
        arms: of each arm, the numbers of each metric, in the same order of metrics; none of a
            metric that did not measure the arm.
        taken: names of other numbers.
    """
    names, used = dict[tuple[int, str], str](), set(taken)
    for place, metrics in enumerate(zip(*arms, strict=True)):
        for name in dict.fromkeys(name for numbers in metrics for name in numbers):
            free, count = name, 1
            while free in used:
                count += 1
                free = f"{name}_{count}"
            names[place, name] = free
            used.add(free)
    return [
        {
            names[place, name]: number
            for place, numbers in enumerate(arm)
            for name, number in numbers.items()
        }
        for arm in arms
    ]
