"""The Eulerian loss: where a jump ends does not change along the inner flow."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import attrs
import torch
from torch import Tensor

from align.core.option import option
from align.core.path import expand
from align.modes.distill.consistency import Consistency
from align.modes.distill.forward import derivative
from align.modes.distill.inner import InnerFlow


@final
@attrs.frozen(kw_only=True)
class Eulerian(Consistency):
    """∂_s X + (b̄_s · ∇) X = 0: v_{s,u}(y) → b̄_s + (u − s) (∂_s v_{s,u} + b̄_s · ∇ v_{s,u}).

    The right side is one forward-mode derivative of v along (b̄_s, 1, 0); it carries no gradient.

    Reference: Flow map matching with self-distillation, Boffi, Albergo, Vanden-Eijnden, 2025,
    arXiv:2505.18825 (Eulerian self-distillation); Meta Flow Maps, Potaptchik et al., 2026,
    arXiv:2601.14430, Table 1.
    """

    kind: ClassVar[str] = "eulerian"

    velocity: Literal["teacher", "self"] = option(
        "where the inner velocity comes from", default="teacher"
    )

    def residual(self, inner: InnerFlow, s: Tensor, u: Tensor) -> Tensor:
        """v_{s,u}(I_s) minus the target, (B, *S)."""
        y = inner.state(s)
        with torch.no_grad(), torch.autocast(y.device.type, enabled=False):
            along = inner.teacher(y, s) if self.velocity == "teacher" else inner.average(y, s, s)
        return carried(inner, y, s, u, along)


def carried(inner: InnerFlow, y: Tensor, s: Tensor, u: Tensor, along: Tensor) -> Tensor:
    """v_{s,u}(y) − (a + (u − s) (∂_s + a · ∇) v_{s,u}(y)) for a velocity a = `along`; (B, *S)."""
    with torch.no_grad():
        tangent = (along, torch.ones_like(s), torch.zeros_like(u))
        _, change = derivative(inner.average, (y, s, u), tangent)
        target = along + expand(u - s, y) * change
    return inner.average(y, s, u) - target
