"""The Eulerian loss: where a jump ends does not change along the inner flow."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import attrs
import torch
from torch import Tensor

from align.core.option import option
from align.core.path import expand
from align.modes.distill.consistency import ConsistencyLoss
from align.modes.distill.forward import Precision, derivative, precision_option
from align.modes.distill.inner import InnerFlow


@final
@attrs.frozen(kw_only=True)
class Eulerian(ConsistencyLoss):
    """distill, jumps: by a derivative at their beginning.

    ∂_s X + (b̄_s · ∇) X = 0: v_{s,u}(y) → b̄_s + (u − s) (∂_s v_{s,u} + b̄_s · ∇ v_{s,u}).

    The target is a forward-mode derivative of v along (b̄_s, 1, 0); it carries no gradient.

    Reference: Flow map matching with self-distillation, Boffi, Albergo, Vanden-Eijnden, 2025,
    arXiv:2505.18825 (Eulerian self-distillation); Meta Flow Maps, Potaptchik et al., 2026,
    arXiv:2601.14430, Table 1.
    """

    kind: ClassVar[str] = "eulerian"

    velocity: Literal["teacher", "self"] = option(
        "where the inner velocity comes from: the teacher, or the diagonal of the map",
        default="teacher",
    )
    derivative: Precision = precision_option()

    @property
    def follows_teacher(self) -> bool:
        """Whether the inner velocity is the teacher's."""
        return self.velocity == "teacher"

    def residual(self, inner: InnerFlow, s: Tensor, u: Tensor) -> Tensor:
        """v_{s,u}(I_s) minus the target, (B, *S)."""
        y = inner.state(s)
        with torch.no_grad(), torch.autocast(y.device.type, enabled=False):
            teacher = self.velocity == "teacher"
            velocity = inner.teacher(y, s) if teacher else inner.average(y, s, s)
        return transport_residual(inner, y, s, u, velocity, self.derivative)


def transport_residual(
    inner: InnerFlow, y: Tensor, s: Tensor, u: Tensor, velocity: Tensor, precision: Precision
) -> Tensor:
    """v_{s,u}(y) − (a + (u − s) (∂_s + a · ∇) v_{s,u}(y)) for a = `velocity`; (B, *S)."""
    with torch.no_grad():
        tangent = (velocity, torch.ones_like(s), torch.zeros_like(u))
        _, slope = derivative(inner.average, (y, s, u), tangent, precision)
        target = velocity + expand(u - s, y) * slope
    return inner.average(y, s, u) - target
