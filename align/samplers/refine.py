"""Samples of a model's law by a few posterior draws, each made noisy again."""

from __future__ import annotations

from torch import Tensor

from align.core.model import Condition, FlowModel, NoisyState
from align.core.path import times_of
from align.core.sampler import PosteriorSampler, draw_posterior
from align.core.streams import Streams


def refine(
    model: FlowModel, sampler: PosteriorSampler, cond: Condition, *, steps: int, streams: Streams
) -> Tensor:
    """Samples x1 (B, *S) of the model's law by K posterior draws and K − 1 fresh noises.

        x_0 ~ N(0, I);   x̂ ~ p(x1 | x_{j/K});   x_{(j+1)/K} = α ε + β x̂,   j = 0 .. K − 1.

    With exact posterior draws the result is exact for every K.

    Args:
        model: the model.
        sampler: of its posterior; one draw a step.
        cond: what each row is conditioned on.
        steps: K, at least 1.
        streams: one row a sample.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Algorithm 1.
    """
    x = streams.fold_in("start").normal(model.shape).to(model.device, model.dtype)
    for j in range(steps):
        t = times_of(x, j / steps)
        step = streams.fold_in("refine", j)
        clean = draw_posterior(sampler, model, NoisyState(x, t, cond), draws=1, streams=step)[0]
        noise = step.fold_in("noise").normal(model.shape).to(x)
        x = model.path.interpolate(noise, clean, t + 1 / steps)
    return clean
