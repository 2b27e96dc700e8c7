"""MFM-Search's estimate: the best of the draws, the limit of a reward with infinite weight."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch

from align.core.draws import Count, budget_option, draws_option, make_draws
from align.core.estimate import Estimate
from align.core.estimator import ValueEstimator
from align.core.model import NoisyState
from align.core.path import expand
from align.core.problem import Problem
from align.core.streams import Streams
from align.estimators.stein import denoiser_of


@final
@attrs.frozen(kw_only=True)
class Search(ValueEstimator):
    """Any reward: climbs it, and leaves the tilted law.

    Moves the posterior mean to the draw with the highest reward.

        shift = x1_best − D_t(x),   value = max_n r(x1_n).

    These are the limits of Σ_n w_n x1_n − D and of (1/k) log (1/N) Σ_n e^{k r(x1_n)}, for weights
    w = softmax(k r) with k → ∞: the reward's weight changes nothing. Particles that are compared by
    `value` are compared by their best draw. With the dynamics 'renoise' this is MFM-Search, which
    climbs the reward and does not sample p*.

    `error` is the jackknife's standard error of the maximum, (N − 1)/N times its lead over the
    second best: within a factor of two or so the deviation of another N draws' maximum, and not the
    distance from V_t. `ess` is that of the draws' weights at k = 1, which decides about "auto".

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Algorithm 4.
    """

    kind: ClassVar[str] = "search"
    needs_gradient: ClassVar[bool] = False
    needs_sampler: ClassVar[bool] = True
    needs_model: ClassVar[type | None] = None

    draws: Count = draws_option()
    budget: int = budget_option()

    @torch.no_grad()
    def estimate(self, problem: Problem, noisy: NoisyState, *, streams: Streams) -> Estimate:
        """Best reward and shift; costs N draws, N rewards and a network call.

        The denoiser is part of the estimate, so that steering makes no call of its own.
        """
        draws = make_draws(
            problem, noisy, draws=self.draws, budget=self.budget, gradient=False, streams=streams
        )
        denoiser = denoiser_of(problem, noisy, draws)
        best = draws.rewards.max(0)
        place = expand(best.indices, denoiser)[None].expand_as(draws.x1[:1])
        estimate = draws.estimate(draws.x1.gather(0, place)[0] - denoiser)
        error = estimate.error
        if len(draws.rewards) > 1:
            first, second = draws.rewards.topk(2, 0).values
            error = (1 - 1 / draws.counts.to(first)) * (first - second)
        return attrs.evolve(estimate, value=best.values, error=error, denoiser=denoiser)
