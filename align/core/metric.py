"""Metrics: numbers about a set of samples, measured after a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import attrs
from torch import Tensor

from align.core.attribution import attributed, seen
from align.core.errors import ContractError
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

    @abstractmethod
    def compute(self, samples: Tensor, references: Tensor | None) -> dict[str, float]:
        """Named numbers for samples (B, ...) beside references (R, ...) of the same kind."""


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
        if not isinstance(numbers, Mapping):
            raise ContractError(f"{who} returned {seen(numbers)}, expected numbers by name")
        for name, number in numbers.items():
            if not isinstance(name, str) or isinstance(number, str):
                raise ContractError(f"{who} returned {name!r}: {number!r}, expected a number")
        return {name: float(number) for name, number in numbers.items()}
