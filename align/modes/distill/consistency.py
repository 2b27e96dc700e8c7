"""What every consistency loss is handed, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import attrs
from torch import Tensor

from align.modes.distill.inner import InnerFlow


@attrs.frozen(kw_only=True)
class Consistency(ABC):
    """Makes long jumps X_{s,u}(y) = y + (u − s) v_{s,u}(y) agree with the inner flow."""

    kind: ClassVar[str]

    @abstractmethod
    def residual(self, inner: InnerFlow, s: Tensor, u: Tensor) -> Tensor:
        """Prediction minus target, (B, *S), for jumps between times s <= u (B,).

        Only one of the two carries a gradient to the weights.
        """
