"""A blend of Gradient and Stein on the same draws: each where it is less noisy."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.draws import (
    Count,
    Draws,
    budget_option,
    draws_option,
    make_draws,
    variance,
    weighted_mean,
)
from align.core.estimate import Estimate
from align.core.estimator import ValueEstimator
from align.core.model import NoisyState
from align.core.option import option
from align.core.path import Path, expand
from align.core.problem import Problem
from align.core.streams import Streams
from align.estimators.gradient import gradient_of, shift_of_gradient
from align.estimators.stein import denoiser_of, regression_shift

Rule: TypeAlias = Literal["both", "variance", "time"]


def odds_by_variance(path: Path, draws: Draws, t: Tensor) -> Tensor:
    """log of Var(x1) / Var((α²/β) ∂r/∂x), (B,), over the draws; NaN where draws do not differ.

    Both shifts are means of one term a draw with the same weights, so that the ratio of their
    variances is about that of the variances of the terms. These are taken without the weights:
    with them, a draw that has all the weight hides the spread of the others.
    """
    assert draws.reward_grads is not None
    scale = shift_of_gradient(path, torch.ones_like(t), t).to(draws.rewards)
    clean = variance(draws.x1, draws.equal)
    gradient = variance(draws.reward_grads, draws.equal) * scale.square()
    tiny = torch.finfo(clean.dtype).tiny
    odds = clean.clamp(min=tiny).log() - gradient.clamp(min=tiny).log()
    # Draws of a posterior that is a point differ by rounding alone.
    size = weighted_mean(draws.x1.square(), draws.equal).flatten(1).sum(1)
    rounding = (16 * torch.finfo(draws.x1.dtype).eps) ** 2 * size
    return torch.where(clean > rounding, odds, torch.nan)


def odds_by_time(path: Path, t: Tensor) -> Tensor:
    """log(0.4 (β/α)²), (B,): fitted to the best weights on a mixture on the line."""
    return torch.log(0.4 * (path.beta(t) / path.alpha(t)).square())


@final
@attrs.frozen(kw_only=True)
class Blend(ValueEstimator):
    """`gradient` and `stein` of the same draws, mixed.

    Mixes the shifts of 'gradient' and of 'stein', made of the same draws.

        shift = λ (α²/β) Σ_i w_i ∂r(x1_i)/∂x + (1 − λ) (Σ_i w_i x1_i − centre).

    The gradient is precise late, where the posterior is nearly a point, and the weighted mean
    early and where the posterior has several modes. The odds λ/(1 − λ) are, by `rule`,

        "variance":  Var(x1) / Var((α²/β) ∂r/∂x), variances over the draws;
        "time":      0.4 (β/α)²;
        "both":      the geometric mean of the two.

    With one draw there is no variance, and every rule is "time". The centre is that of 'stein'
    with centring "regression".

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 20 and 22, for what
    is mixed; the weights are our own, measured in docs/results/estimators.md.
    """

    kind: ClassVar[str] = "blend"
    needs_gradient: ClassVar[bool] = True
    needs_sampler: ClassVar[bool] = True
    needs_model: ClassVar[type | None] = None

    draws: Count = draws_option()
    budget: int = budget_option()
    rule: Rule = option(
        "rule for the weight of the gradient: by the variances of the draws, by time, or both",
        default="both",
    )

    def estimate(self, problem: Problem, noisy: NoisyState, *, streams: Streams) -> Estimate:
        """Value and shift; costs N draws, N rewards, a backward pass through both, a network call.

        The denoiser is part of the estimate, so that steering makes no call of its own.
        """
        draws = make_draws(
            problem, noisy, draws=self.draws, budget=self.budget, gradient=True, streams=streams
        )
        path, denoiser = problem.model.path, denoiser_of(problem, noisy, draws)
        by_gradient = shift_of_gradient(path, gradient_of(draws), noisy.t)
        by_mean = regression_shift(draws, denoiser)
        share = expand(self._share(path, draws, noisy.t).to(by_gradient), by_gradient)
        estimate = draws.estimate(share * by_gradient + (1 - share) * by_mean)
        return attrs.evolve(estimate, denoiser=denoiser)

    def _share(self, path: Path, draws: Draws, t: Tensor) -> Tensor:
        """λ, the weight of the gradient, (B,)."""
        by_time = odds_by_time(path, t)
        if self.rule == "time":
            return torch.sigmoid(by_time)
        odds = odds_by_variance(path, draws, t).to(by_time)
        known = ~odds.isnan()
        if self.rule == "both":
            odds = (odds + by_time) / 2
        # At t = 0 the gradient is zero, and its zeros have no variance.
        share = torch.where(known, odds, by_time).sigmoid()
        return torch.where(path.beta(t) > 0, share, 0.0)
