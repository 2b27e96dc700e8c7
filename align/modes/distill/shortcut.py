"""The shortcut loss: a jump of a power of two equals two jumps of half its length."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.option import at_least, option
from align.core.path import expand
from align.modes.distill.consistency import ConsistencyLoss
from align.modes.distill.inner import InnerFlow


@final
@attrs.frozen(kw_only=True)
class Shortcut(ConsistencyLoss):
    """distill, jumps: one is as good as its halves, on a grid.

    v_{s,s+2d}(y) → ½ v_{s,s+d}(y) + ½ v_{s+d,s+2d}(X_{s,s+d}(y)), d = 2⁻ᵏ, s a multiple of 2d.

    k is uniform in 1, ..., `levels`. The halves of the shortest jumps are Euler steps with the
    velocity v_{s,s}, which the diagonal learns. Only jumps of this grid are trained; the times that
    other consistency losses take from `times` are not used.

    Reference: One Step Diffusion via Shortcut Models, Frans et al., 2024, arXiv:2410.12557, Eq. 4
    and 5.
    """

    kind: ClassVar[str] = "shortcut"

    levels: int = option(
        "number of jump lengths, which are 1, 1/2, 1/4, ...", default=7, check=at_least(1)
    )

    def residual(self, inner: InnerFlow, s: Tensor, u: Tensor) -> Tensor:
        """v_{s,s+2d}(I_s) minus the mean velocity of the two halves, (B, *S)."""
        uniform = inner.streams.fold_in("shortcut").uniform((2,)).to(s)
        level = 1 + (uniform[:, 0] * self.levels).floor()
        half = 2.0**-level
        s = (uniform[:, 1] / (2 * half)).floor() * 2 * half
        w, u = s + half, s + 2 * half
        y, shortest = inner.state(s), level == self.levels
        with torch.no_grad():
            first = inner.average(y, s, torch.where(shortest, s, w))
            middle = y + expand(half, y) * first
            second = inner.average(middle, w, torch.where(shortest, w, u))
        return inner.average(y, s, u) - (first + second) / 2
