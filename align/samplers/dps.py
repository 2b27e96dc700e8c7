"""The posterior as a point: every draw is the denoiser."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
from torch import Tensor

from align.core.model import FlowModel, NoisyState
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams


@final
@attrs.frozen(kw_only=True)
class DPS(PosteriorSampler):
    """Any flow, nearly free: the mean stands for every draw.

    p(x1 | x_t) ≈ δ(D_t(x)): wrong where the reward is not linear across the posterior.

    Reference: Diffusion Posterior Sampling, Chung et al., 2022, arXiv:2209.14687, section 3.
    """

    kind: ClassVar[str] = "dps"
    differentiable: ClassVar[bool] = True
    point: ClassVar[bool] = True
    exact_for: ClassVar[str] = "a posterior that is a point, which it is at t = 1 alone"
    needs: ClassVar[type | None] = None

    def sample(
        self, model: FlowModel, noisy: NoisyState, *, draws: int, streams: Streams
    ) -> Tensor:
        """The denoiser N times, (N, B, *S), without a copy; costs one network call a state."""
        velocity = model.velocity(noisy.x, noisy.t, noisy.cond)
        denoiser = model.path.denoiser_from_velocity(velocity, noisy.x, noisy.t)
        return denoiser.expand(draws, *denoiser.shape)
