"""The Eulerian loss: where a jump ends does not change along the inner flow."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import attrs
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from align.core.option import option
from align.core.path import expand
from align.core.streams import Streams
from align.objectives.consistency import Average, Consistency, Inner


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

    def residual(
        self, average: Average, inner: Inner, y: Tensor, s: Tensor, u: Tensor, streams: Streams
    ) -> Tensor:
        """v_{s,u}(y) minus the target, (B, *S)."""
        # Fused attention has no forward-mode derivative, and derivatives want full precision.
        full = torch.autocast(y.device.type, enabled=False)
        with torch.no_grad(), full, sdpa_kernel(SDPBackend.MATH):
            along = inner(y, s) if self.velocity == "teacher" else average(y, s, s)
            tangent = (along, torch.ones_like(s), torch.zeros_like(u))
            change: Tensor = torch.func.jvp(average, (y, s, u), tangent)[1]
            target = along + expand(u - s, y) * change
        return average(y, s, u) - target
