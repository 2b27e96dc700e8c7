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

    Attributes:
        domain: the data it measures; None takes both.
        needs_references: whether `compute` must be given references.
    """

    kind: ClassVar[str]
    domain: ClassVar[Domain | None]
    needs_references: ClassVar[bool]

    @abstractmethod
    def compute(self, samples: Tensor, references: Tensor | None) -> dict[str, float]:
        """Named numbers for samples (B, ...) beside references (R, ...) of the same kind."""
