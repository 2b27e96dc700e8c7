"""The shortcut loss: a jump of a power of two equals two jumps of half its length."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.option import at_least, option
from align.core.path import expand
from align.modes.distill.consistency import Consistency
from align.modes.distill.inner import InnerFlow


@final
@attrs.frozen(kw_only=True)
class Shortcut(Consistency):
    """v_{s,s+2d}(y) → ½ v_{s,s+d}(y) + ½ v_{s+d,s+2d}(X_{s,s+d}(y)), d = 2⁻ᵏ, s a multiple of 2d.

    k is uniform in 1, ..., `levels`. The shortest jumps are taught by the velocity v_{s,s}, which
    the diagonal teaches: half a jump of the last level is an Euler step. Only the grid's jumps are
    trained: the times that other consistencies are handed are not used.

    Reference: One Step Diffusion via Shortcut Models, Frans et al., 2024, arXiv:2410.12557, Eq. 4
    and 5.
    """

    kind: ClassVar[str] = "shortcut"

    levels: int = option("number of lengths: jumps are 1, 1/2, ...", check=at_least(1), default=7)

    def residual(self, inner: InnerFlow, s: Tensor, u: Tensor) -> Tensor:
        """v_{s,s+2d}(I_s) minus the mean velocity of the two halves, (B, *S)."""
        drawn = inner.streams.fold_in("shortcut").uniform((2,)).to(s)
        level = 1 + (drawn[:, 0] * self.levels).floor()
        half = 2.0**-level
        s = (drawn[:, 1] / (2 * half)).floor() * 2 * half
        w, u = s + half, s + 2 * half
        y, last = inner.state(s), level == self.levels
        with torch.no_grad():
            first = inner.average(y, s, torch.where(last, s, w))
            middle = y + expand(half, y) * first
            second = inner.average(middle, w, torch.where(last, w, u))
        return inner.average(y, s, u) - (first + second) / 2
