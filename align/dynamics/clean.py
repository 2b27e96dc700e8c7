"""Steps by way of clean states: to the denoiser, and back to a noisy state at the next time."""

from __future__ import annotations

from typing import final

import attrs
import torch
from torch import Tensor

from align.core.dynamics import GuidedFlow
from align.core.path import expand


@final
@attrs.frozen(eq=False)
class CleanStep:
    """The step x' = mean + push + std ε by way of the denoiser.

        mean = β_u D + α_u κ ε̂,             push = (β_u − α_u κ β_t/α_t) (D* − D),
        std = α_u √(1 − κ²),                ε̂ = (x − β_t D)/α_t,

    where κ is the share of its noise that the state keeps.

    Attributes:
        mean: (B, *S).
        push: (B, *S).
        std: (B,).
        strength: ‖guidance‖ / ‖velocity‖, (B,).
    """

    mean: Tensor
    push: Tensor
    std: Tensor
    strength: Tensor

    @classmethod
    def of(cls, flow: GuidedFlow, x: Tensor, t: Tensor, u: Tensor, kept: Tensor) -> CleanStep:
        """The step from x (B, *S) at t (B,) to u (B,); costs one evaluation.

        Args:
            flow: what is followed.
            x: the states.
            t: their times.
            u: the times to go to.
            kept: κ, (B,), from 0 to 1.

        Reference: Denoising diffusion implicit models, Song, Meng, Ermon, 2020, arXiv:2010.02502,
        Eq. 12.
        """
        path, slope = flow.path, flow.velocity(x, t)
        denoiser = path.denoiser_from_velocity(slope.drift, x, t)
        noise = path.noise_from_denoiser(denoiser, x, t)
        # At u = 1 there is no noise, whatever rounding makes of α.
        alpha_u = torch.where(u < 1, path.alpha(u), 0)
        old = alpha_u * kept
        mean = expand(path.beta(u), x) * denoiser + expand(old, x) * noise
        gain = (path.beta(u) - old * path.beta(t) / path.alpha(t)) / path.denoiser_to_velocity(t)
        std = alpha_u * torch.sqrt((1 - kept**2).clamp(min=0))
        return cls(mean, expand(gain, x) * slope.guidance, std, slope.strength)
