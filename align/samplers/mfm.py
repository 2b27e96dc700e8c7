"""Posterior samples in one network call, by a meta flow map."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.model import At, Condition, FlowModel, PosteriorMap
from align.core.option import at_least, option
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.errors import PartError


@final
@attrs.frozen(kw_only=True)
class MetaFlowMap(PosteriorSampler):
    """x1 = X_{0,1}(ε; t, x) with ε ~ N(0, I), taken as K jumps of equal length.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 4.
    """

    kind: ClassVar[str] = "mfm"
    differentiable: ClassVar[bool] = True
    exact_for: ClassVar[str] = "an exact posterior map"
    needs: ClassVar[type | None] = PosteriorMap

    steps: int = option("jumps from noise to a draw", default=1, check=at_least(1))

    def sample(self, model: FlowModel, at: At, *, draws: int, streams: Streams) -> Tensor:
        """Draws (N, B, *S) of x1; costs N · steps network calls a state."""
        if not isinstance(model, PosteriorMap):
            raise PartError("sampler 'mfm' needs a model with a posterior map; use 'glass'")
        noise = streams.at("posterior").normal(model.shape, draws=draws)
        y = noise.to(at.x).flatten(0, 1)
        at = at.tile(draws)
        for k in range(self.steps):
            s = torch.full_like(at.t, k / self.steps)
            u = torch.full_like(at.t, (k + 1) / self.steps)
            y = model.posterior_jump(y, s, u, at)
        return y.reshape(draws, -1, *model.shape)


def refine(
    model: FlowModel, sampler: PosteriorSampler, cond: Condition, *, steps: int, streams: Streams
) -> Tensor:
    """Samples x1 (B, *S) of the model's law by K posterior draws and K − 1 fresh noises.

        x_0 ~ N(0, I);   x̂ ~ p(x1 | x_{j/K});   x_{(j+1)/K} = α ε + β x̂,   j = 0 .. K − 1.

    With exact posterior draws the result is exact for every K.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Algorithm 1.
    """
    x = streams.at("start").normal(model.shape).to(model.device, model.dtype)
    for j in range(steps):
        t = x.new_full((len(x),), j / steps)
        step = streams.at("refine", j)
        clean = sampler.sample(model, At(x, t, cond), draws=1, streams=step)[0]
        noise = step.at("noise").normal(model.shape).to(x)
        x = model.path.interpolate(noise, clean, t + 1 / steps)
    return clean
