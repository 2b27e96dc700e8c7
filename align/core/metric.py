"""Metrics: numbers about a set of samples, measured after a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import attrs
from torch import Tensor

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
