"""The flow itself, by Euler steps without noise."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
from torch import Tensor

from align.core.dynamics import Dynamics, GuidedFlow, Transition
from align.core.option import above, option
from align.core.path import expand
from align.core.streams import Streams
from align.dynamics.clamp import guidance_clamp


@final
@attrs.frozen(kw_only=True)
class ODE(Dynamics):
    """No fresh noise: Euler steps, the plain choice.

    Euler steps along the velocity, without noise.

        x' = x + (u − t) (b + c_t (D* − D)),      c_t (D* − D) = (σ²/2) ∇V.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 37.
    """

    kind: ClassVar[str] = "ode"
    has_density: ClassVar[bool] = False

    clamp_guidance: bool = option(
        "multiply the guidance by min(1, clamp / (σ²/2)), as published code does; the tilted law"
        " is then missed",
        default=False,
    )
    clamp: float = option(
        "bound on σ²/2 that clamp_guidance uses; without it there is nothing to bound",
        default=25.0,
        check=above(0),
        infinite=True,
    )

    def step(
        self, flow: GuidedFlow, x: Tensor, t: Tensor, u: Tensor, streams: Streams
    ) -> Transition:
        """One Euler step; costs one evaluation."""
        here = flow.evaluate(x, t)
        guidance = expand(flow.path.denoiser_to_velocity(t), x) * here.shift
        if self.clamp_guidance:
            guidance = expand(guidance_clamp(flow.path, t, self.clamp), x) * guidance
        slope, width = flow.slope(guidance, here.velocity), expand(u - t, x)
        return Transition(x + width * slope.drift + width * slope.guidance, slope.strength)
