"""The posterior as a point: every draw is where the flow leads."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
from torch import Tensor

from align.core.errors import PartError
from align.core.model import FlowModel, NoisyState, ToData
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams


@final
@attrs.frozen(kw_only=True)
class LookAhead(PosteriorSampler):
    """Models with a map: the flow's end stands for every draw.

    p(x1 | x_t) ≈ δ(X_{t,1}(x)).

    Unlike the denoiser, of which `dps` makes its point, that is a sample that the reward can judge,
    at all times. It is no draw from the posterior: the flow has chosen one of many clean states
    already, so that ∇r(X_{t,1}(x)) says how to improve that one, and at early times leads elsewhere
    than ∇V. One draw is enough, as all are alike.

    R_t(x) = r(X_{t,1}(x)) does not change along the flow. With particles, estimator 'gradient' and
    `temper_until = 1`, laws on the way are p_t e^{t R_t}, from noise at t = 0 to p* at t = 1, and
    weights make p* the target, by the ratio of the steps' densities. Mode 'trajectory_tilting'
    weighs the same laws by an integral of R over time.

    Reference: Test-time scaling of diffusions with flow maps (FMTT), Sabour et al., 2025,
    arXiv:2511.22688 (the look-ahead); what is said of it here was derived for align.
    """

    kind: ClassVar[str] = "look_ahead"
    differentiable: ClassVar[bool] = True
    exact_for: ClassVar[str] = "a posterior that is a point, which it is at t = 1 alone"
    needs: ClassVar[type | None] = ToData

    def sample(
        self, model: FlowModel, noisy: NoisyState, *, draws: int, streams: Streams
    ) -> Tensor:
        """The flow's end N times, (N, B, *S), without a copy; costs one jump a state."""
        jumps = model.capability(ToData)
        if jumps is None:
            raise PartError("sampler 'look_ahead' needs a model that jumps to data; use 'dps'")
        x1 = jumps.to_data(noisy.x, noisy.t, noisy.cond)
        return x1.expand(draws, *x1.shape)
