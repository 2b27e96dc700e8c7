"""DDPM: the memoryless transition to and from the denoiser."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
from torch import Tensor

from align.core.dynamics import Dynamics, GaussianStep, GuidedFlow, Transition
from align.core.streams import Streams
from align.dynamics.clean import CleanStep


@final
@attrs.frozen(kw_only=True)
class DDPM(Dynamics):
    """Fresh noise, by way of the denoiser; takes particles.

    The transition of the memoryless process for a posterior that is a point, at D*.

        x' = β_u D* + α_u (κ ε̂* + √(1 − κ²) ε),   κ = β_t α_u / (β_u α_t),   ε̂* = (x − β_t D*)/α_t.

    Short steps are those of the SDE. The step to t = 1 has no noise, and so no guidance: it takes
    the denoiser D of a state that guidance has brought there, and the divergence stays known.

    Reference: Denoising diffusion implicit models, Song, Meng, Ermon, 2020, arXiv:2010.02502,
    Eq. 12 (its stochastic end); Denoising diffusion probabilistic models, Ho, Jain, Abbeel, 2020,
    arXiv:2006.11239, Eq. 6 and 7.
    """

    kind: ClassVar[str] = "ddpm"
    has_density: ClassVar[bool] = True

    def step(
        self, flow: GuidedFlow, x: Tensor, t: Tensor, u: Tensor, streams: Streams
    ) -> Transition:
        """One step; costs one evaluation."""
        path = flow.path
        kept = path.beta(t) * path.alpha(u) / (path.beta(u) * path.alpha(t))
        clean = CleanStep.of(flow, x, t, u, kept)
        gaussian = GaussianStep.draw(clean.mean, clean.push, clean.std, streams)
        return Transition(gaussian.x, clean.strength, gaussian)
