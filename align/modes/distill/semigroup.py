"""The semigroup loss: one jump equals two."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.path import expand
from align.modes.distill.consistency import ConsistencyLoss
from align.modes.distill.inner import InnerFlow


@final
@attrs.frozen(kw_only=True)
class Semigroup(ConsistencyLoss):
    """distill, jumps: one is as good as two; the usual one.

    X_{w,u} ∘ X_{s,w} = X_{s,u}: v_{s,u}(y) → γ v_{s,w}(y) + (1 − γ) v_{w,u}(X_{s,w}(y)).

    w = s + γ (u − s) with γ uniform in (0, 1). The target carries no gradient.

    Reference: Flow map matching with self-distillation, Boffi, Albergo, Vanden-Eijnden, 2025,
    arXiv:2505.18825 (progressive self-distillation); Meta Flow Maps, Potaptchik et al., 2026,
    arXiv:2601.14430, Table 1.
    """

    kind: ClassVar[str] = "semigroup"

    def residual(self, inner: InnerFlow, s: Tensor, u: Tensor) -> Tensor:
        """v_{s,u}(I_s) minus the mean velocity of the two jumps, (B, *S)."""
        y, gamma = inner.state(s), inner.streams.fold_in("part").uniform(()).to(s)
        with torch.no_grad():
            w = s + gamma * (u - s)
            first = inner.average(y, s, w)
            second = inner.average(y + expand(w - s, y) * first, w, u)
            weight = expand(gamma, y)
            target = weight * first + (1 - weight) * second
        return inner.average(y, s, u) - target
