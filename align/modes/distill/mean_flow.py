"""The mean-flow loss: the Eulerian loss with the rate of the data as its velocity."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
from torch import Tensor

from align.modes.distill.consistency import ConsistencyLoss
from align.modes.distill.eulerian import transport_residual
from align.modes.distill.forward import Precision, precision_option
from align.modes.distill.inner import InnerFlow


@final
@attrs.frozen(kw_only=True)
class MeanFlow(ConsistencyLoss):
    """distill, jumps: as MeanFlow, from data alone.

    v_{s,u}(I_s) → İ_s + (u − s) (∂_s v_{s,u} + İ_s · ∇ v_{s,u}), without a model's velocity.

    It is linear in İ_s, so its mean given (I_s, x_t) is the Eulerian target with b̄_s.

    Reference: Mean Flows for One-step Generative Modeling, Geng et al., 2025, arXiv:2505.13447,
    Eq. 6 to 11; Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Table 1.
    """

    kind: ClassVar[str] = "mean_flow"

    derivative: Precision = precision_option()

    def residual(self, inner: InnerFlow, s: Tensor, u: Tensor) -> Tensor:
        """v_{s,u}(I_s) minus the target, (B, *S)."""
        return transport_residual(inner, inner.state(s), s, u, inner.rate(s), self.derivative)
