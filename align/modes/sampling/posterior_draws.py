"""Posterior draws of one noisy state, as samples: what it may still become."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.mode import AlignmentMode, Info, Need
from align.core.model import NoisyState
from align.core.option import at_least, between, option
from align.core.path import times_of
from align.core.problem import Problem
from align.core.sampler import draw_posterior
from align.core.streams import Streams
from align.modes.sampling.rollout import flow


@final
@attrs.frozen(eq=False)
class Drawn:
    """One noisy state x_t (1, *S), and its draws (B, *S) once they are made."""

    noisy: Tensor
    x1: Tensor


@final
@attrs.frozen(kw_only=True)
class PosteriorDraws(AlignmentMode[Drawn]):
    """Draws what one noisy state may still become.

    A sample of the flow is made noisy once, and each sample of the run is a draw from there.

        x_t = α_t ε + β_t x1,   x̂_i ~ p(x1 | x_t):   all i share x1, ε and t.

    Near t = 0 draws are as different as samples; near t = 1 they are all x1. The noise is the same
    at every time, so that arms at several times show one picture as it appears. Where samples have
    prompts of their own, so have their draws.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 4.
    """

    kind: ClassVar[str] = "posterior_draws"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "sampler"})
    steps: ClassVar[int] = 1

    time: float = option("time t of the noisy state", default=0.5, check=between(0, 0.99))
    flow_steps: int = option(
        "Euler steps of the sample that is made noisy", default=50, check=at_least(1), grows="calls"
    )

    @torch.no_grad()
    def init(self, problem: Problem, streams: Streams) -> Drawn:
        """The noisy state: of sample 0, whatever samples are drawn here."""
        model, first = problem.model, streams.numbered(0, 1)
        cond = problem.condition(first.samples)
        start, noise = (
            first.fold_in(name).normal(model.shape).to(model.device, model.dtype)
            for name in ("start", "noise")
        )
        x1 = flow(model, start, cond, steps=self.flow_steps)
        noisy = model.path.interpolate(noise, x1, times_of(x1, self.time))
        return Drawn(noisy, x1.new_zeros((len(streams.samples), *model.shape)))

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Drawn, index: int, streams: Streams
    ) -> tuple[Drawn, Info]:
        """All draws; costs the sampler's calls a sample."""
        assert problem.sampler is not None
        x = state.noisy.expand_as(state.x1)
        noisy = NoisyState(x, times_of(x, self.time), problem.cond)
        draws = draw_posterior(problem.sampler, problem.model, noisy, draws=1, streams=streams)
        return attrs.evolve(state, x1=draws[0]), Info({"t": self.time})

    def finish(self, problem: Problem, state: Drawn) -> Tensor:
        """The draws, (B, *S)."""
        return state.x1
