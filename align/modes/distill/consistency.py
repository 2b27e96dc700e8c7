"""The contract of consistency losses."""

from __future__ import annotations

from abc import abstractmethod

import attrs
from torch import Tensor

from align.core.objective import Objective
from align.modes.distill.inner import InnerFlow


@attrs.frozen(kw_only=True)
class ConsistencyLoss(Objective):
    """A loss that makes long jumps X_{s,u}(y) = y + (u − s) v_{s,u}(y) agree with the inner flow.

    Mode "distill" minimises the square of its residual off the diagonal, that is where s < u.
    """

    @property
    def follows_teacher(self) -> bool:
        """Whether targets are the teacher's velocity, which knows nothing of a tilt."""
        return False

    @abstractmethod
    def residual(self, inner: InnerFlow, s: Tensor, u: Tensor) -> Tensor:
        """Prediction minus target, (B, *S), for jumps between times s <= u (B,).

        It is zero for the exact map, at least in the mean given (I_s, x_t). Only one of prediction
        and target carries a gradient to the weights.
        """
