"""MFM-GF: the value's gradient from weighted draws, without the reward's gradient."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.draws import Count, Draws, budget_option, draws_option, make_draws, variance
from align.core.estimate import Estimate
from align.core.estimator import ValueEstimator
from align.core.model import NoisyState
from align.core.option import option
from align.core.path import expand
from align.core.problem import Problem
from align.core.streams import Streams

Centring: TypeAlias = Literal["mean", "velocity", "unbiased", "regression"]


def denoiser_of(problem: Problem, noisy: NoisyState, draws: Draws) -> Tensor:
    """D_t(x), (B, *S), for one network call, or for none where the draws are the denoiser."""
    if draws.point:
        return draws.x1[0]
    with torch.no_grad():
        velocity = problem.model.velocity(noisy.x, noisy.t, noisy.cond)
    return problem.model.path.denoiser_from_velocity(velocity, noisy.x, noisy.t)


def centred_shift(draws: Draws) -> Tensor:
    """Σ_n w_n x1_n minus the mean of the draws, (B, *S)."""
    # One sum of differences: no cancellation, and exactly zero when all weights are equal.
    return draws.mean(draws.weights - draws.equal)


def unbiased_shift(shift: Tensor, draws: Draws) -> Tensor:
    """N/(N − 1) times a centred shift (B, *S): unbiased to first order in the reward."""
    counts = draws.counts.to(draws.rewards)
    factor = counts / (counts - 1).clamp(min=1)
    return expand(factor, shift) * shift


def regression_shift(draws: Draws, denoiser: Tensor) -> Tensor:
    """N/(N − 1) (Σ_n w_n x1_n − mean) + (1 − c) (mean − D), with D = `denoiser`; all (B, *S).

    The mean of the draws is a control variate, as D is what it should be. Its best coefficient
    is Cov(Σ w x1, Σ x1 / N) / Var(Σ x1 / N) ≈ Var_w(x1) / Var(x1): the variance of the tilted
    posterior over that of the posterior, here summed over the elements and at most 1.
    """
    plain = variance(draws.x1, draws.equal)
    positive = plain > 0
    ratio = variance(draws.x1, draws.weights) / torch.where(positive, plain, 1)
    share = 1 - torch.where(positive, ratio, 1).clamp(max=1)
    offset = draws.mean(draws.equal) - denoiser
    return unbiased_shift(centred_shift(draws), draws) + expand(share.to(offset), offset) * offset


@final
@attrs.frozen(kw_only=True)
class Stein(ValueEstimator):
    """Any reward, black boxes too: needs no gradient.

    Compares the reward-weighted mean of the draws with their plain mean.

        shift = Σ_i w_i x1_i − centre,   w = softmax(r).

    With centring "mean" the centre is the mean of the draws (with one draw the shift is zero), with
    "velocity" the denoiser. Both are too short by (N − 1)/N for small rewards; the first is less
    noisy where all draws count, the second where few do. "unbiased" is N/(N − 1) times "mean".
    "regression" adds to it the difference between the two centres, as far as the draws' variances
    say that it is noise. Errors of one sign add up over a steered path, and noise does not: the
    last two steer closer to the target, though a single shift of theirs may be noisier.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 20; Monte Carlo
    theory, methods and examples, Owen, 2013, section 8.9 (regression on control variates).
    """

    kind: ClassVar[str] = "stein"
    needs_gradient: ClassVar[bool] = False
    needs_sampler: ClassVar[bool] = True
    needs_model: ClassVar[type | None] = None

    draws: Count = draws_option()
    budget: int = budget_option()
    centring: Centring = option(
        "what the weighted mean of the draws is compared with", default="mean"
    )

    @torch.no_grad()
    def estimate(self, problem: Problem, noisy: NoisyState, *, streams: Streams) -> Estimate:
        """Value and shift; costs N draws and N rewards.

        "velocity" and "regression" cost a network call. The denoiser is then part of the estimate,
        so that steering makes no call of its own.
        """
        draws = make_draws(
            problem, noisy, draws=self.draws, budget=self.budget, gradient=False, streams=streams
        )
        if self.centring in ("mean", "unbiased"):
            shift = centred_shift(draws)
            if self.centring == "unbiased":
                shift = unbiased_shift(shift, draws)
            return draws.estimate(shift)
        denoiser = denoiser_of(problem, noisy, draws)
        shift = (
            regression_shift(draws, denoiser)
            if self.centring == "regression"
            else draws.mean(draws.weights) - denoiser
        )
        return attrs.evolve(draws.estimate(shift), denoiser=denoiser)
