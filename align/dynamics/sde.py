"""The memoryless process, by Euler steps with noise."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.dynamics import Dynamics, GaussianStep, GuidedFlow, Transition
from align.core.option import above, option
from align.core.path import expand
from align.core.streams import Streams
from align.dynamics.clamp import clamped_half_variance, guidance_clamp


@final
@attrs.frozen(kw_only=True)
class SDE(Dynamics):
    """Fresh noise, in Euler steps; takes particles.

    Euler steps of the memoryless process, whose noise level σ²/2 is clamped near t = 0.

        dx = (b + (σ_c²/2) s + (1 + σ_c²/σ²) c_t (D* − D)) dt + σ_c dW,   σ_c²/2 = min(σ²/2, clamp).

    The law of x_t is the same for every σ_c. Guidance moves the velocity by (σ²/2) ∇V and the
    score by ∇V, so that the tilted law stays the target whatever the noise is clamped to.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 14 and 37 to 39.
    """

    kind: ClassVar[str] = "sde"
    has_density: ClassVar[bool] = True

    clamp: float = option(
        "largest σ²/2, the noise level of the path", default=25.0, check=above(0), infinite=True
    )
    clamp_guidance: bool = option(
        "also multiply the guidance by min(1, clamp / (σ²/2)), as published code does; the tilted"
        " law is then missed",
        default=False,
    )

    def step(
        self, flow: GuidedFlow, x: Tensor, t: Tensor, u: Tensor, streams: Streams
    ) -> Transition:
        """One Euler step; costs one evaluation."""
        path, here = flow.path, flow.evaluate(x, t)
        half_variance = clamped_half_variance(path, t, self.clamp)
        score = path.score_from_velocity(here.velocity, x, t)
        drift = here.velocity + expand(half_variance, x) * score
        share = guidance_clamp(path, t, self.clamp)
        guidance = expand(path.denoiser_to_velocity(t) * (1 + share), x) * here.shift
        if self.clamp_guidance:
            guidance = expand(share, x) * guidance
        slope, width = flow.slope(guidance, drift), u - t
        mean = x + expand(width, x) * slope.drift
        push = expand(width, x) * slope.guidance
        std = torch.sqrt(2 * half_variance * width)
        gaussian = GaussianStep.draw(mean, push, std, streams)
        return Transition(gaussian.x, slope.strength, gaussian)
