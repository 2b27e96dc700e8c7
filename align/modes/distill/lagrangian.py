"""The Lagrangian loss: the end of a jump moves with the inner flow."""

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
class Lagrangian(ConsistencyLoss):
    """distill, jumps: by a derivative at their end.

    ∂_u X_{s,u}(y) = b̄_u(X_{s,u}(y)), with ∂_u X = v_{s,u} + (u − s) ∂_u v_{s,u}.

    `trained = "derivative"` moves ∂_u X towards a fixed velocity at a fixed end.
    `trained = "velocity"` holds the derivative fixed and moves v_{u,u}(X), through both v and X, as
    the code published with Meta Flow Maps does; it needs `velocity = "self"`.

    Reference: Flow map matching with self-distillation, Boffi, Albergo, Vanden-Eijnden, 2025,
    arXiv:2505.18825 (Lagrangian self-distillation); Diamond Maps, 2026 (stop-gradients); Meta Flow
    Maps, Potaptchik et al., 2026, arXiv:2601.14430, Table 1.
    """

    kind: ClassVar[str] = "lagrangian"

    velocity: Literal["teacher", "self"] = option(
        "where the inner velocity comes from: the teacher, or the diagonal of the map",
        default="self",
    )
    trained: Literal["derivative", "velocity"] = option(
        "which side of the equation carries the gradient", default="derivative"
    )
    derivative: Precision = precision_option()

    @property
    def follows_teacher(self) -> bool:
        """Whether the inner velocity is the teacher's."""
        return self.velocity == "teacher"

    def __attrs_post_init__(self) -> None:
        if self.trained == "velocity" and self.velocity == "teacher":
            raise ValueError("a teacher's velocity cannot be trained; use velocity = 'self'")

    def residual(self, inner: InnerFlow, s: Tensor, u: Tensor) -> Tensor:
        """∂_u X_{s,u}(I_s) − b̄_u(X_{s,u}(I_s)), (B, *S)."""
        y = inner.state(s)
        average, slope = derivative(
            lambda end: inner.average(y, s, end), (u,), (torch.ones_like(u),), self.derivative
        )
        length = expand(u - s, y)
        end, end_slope = y + length * average, average + length * slope
        if self.trained == "velocity":
            return end_slope.detach() - inner.average(end, u, u)
        with torch.no_grad():
            end = end.detach()
            target = (
                inner.teacher(end, u) if self.velocity == "teacher" else inner.average(end, u, u)
            )
        return end_slope - target
