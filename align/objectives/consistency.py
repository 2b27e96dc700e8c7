"""What every consistency loss is handed, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import attrs
from torch import Tensor

from align.core.streams import Streams

Average: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""v_{s,u}(y) of y (B, *S), s (B,), u (B,): average velocity of the map under training."""

Inner: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""b̄_s(y) of y (B, *S), s (B,): velocity of the inner flow by the teacher."""


@attrs.frozen(kw_only=True)
class Consistency(ABC):
    """Makes long jumps X_{s,u}(y) = y + (u − s) v_{s,u}(y) agree with the inner flow."""

    kind: ClassVar[str]

    @abstractmethod
    def residual(
        self, average: Average, inner: Inner, y: Tensor, s: Tensor, u: Tensor, streams: Streams
    ) -> Tensor:
        """Prediction minus target, (B, *S), at inner states y (B, *S) and times s <= u (B,).

        Only the prediction carries a gradient to the weights.
        """
