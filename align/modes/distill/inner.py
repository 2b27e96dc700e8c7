"""The inner flow of a batch: everything that a distillation loss may ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.path import Path, expand
from align.core.streams import Streams

AverageVelocity: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""v_{s,u}(y) of y (B, *S), s (B,), u (B,): the average velocity of a jump; (B, *S)."""

Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""b̄_s(y) of y (B, *S), s (B,): velocity of the inner flow; (B, *S)."""


@final
@attrs.frozen(eq=False, kw_only=True)
class InnerFlow:
    """B rows of clean data and noise, each with a context (t, x_t) that the callables hold.

    The inner state I_s = α_s noise + β_s x1 shares x1 with its context, so that the mean of its
    rate given (I_s, x_t) is the velocity of the flow towards p(x1 | x_t).

    Attributes:
        path: path of the inner flow.
        noise: I₀, (B, *S).
        x1: I₁, (B, *S).
        average: average velocity of the map under training.
        unconditional: the same for these rows without their class.
        teacher: the inner velocity by a frozen model, without a gradient.
        guidance: scale w of the guidance that is baked into targets made from data.
        streams: random streams of the rows.
    """

    path: Path
    noise: Tensor
    x1: Tensor
    average: AverageVelocity
    unconditional: AverageVelocity
    teacher: Velocity
    guidance: float
    streams: Streams

    def state(self, s: Tensor) -> Tensor:
        """I_s, (B, *S), at inner times s (B,)."""
        return self.path.interpolate(self.noise, self.x1, s)

    def jump(self, y: Tensor, s: Tensor, u: Tensor) -> Tensor:
        """X_{s,u}(y) = y + (u − s) v_{s,u}(y), (B, *S)."""
        return y + expand(u - s, y) * self.average(y, s, u)

    @torch.no_grad()
    def rate(self, s: Tensor) -> Tensor:
        """İ_s, guided: İ_s + ω (v_{s,s}(I_s; c) − v_{s,s}(I_s; ∅)) with ω = 1 − 1/w; (B, *S).

        Its mean is a velocity v with v = b + ω (v − v_∅), so v = b_∅ + w (b − b_∅).

        Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 69 and 70.
        """
        rate = self.path.rate(self.noise, self.x1, s)
        if self.guidance == 1.0:
            return rate
        y = self.state(s)
        difference = self.average(y, s, s) - self.unconditional(y, s, s)
        return rate + (1 - 1 / self.guidance) * difference
