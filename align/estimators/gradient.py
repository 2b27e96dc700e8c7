"""MFM-G: the value's gradient, through the sampler, the decoder and the reward."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.draws import Count, Draws, budget_option, draws_option, make_draws, weighted_mean
from align.core.estimate import Estimate
from align.core.estimator import ValueEstimator
from align.core.model import NoisyState
from align.core.path import Path, expand
from align.core.problem import Problem
from align.core.streams import Streams


def shift_of_gradient(path: Path, gradient: Tensor, t: Tensor) -> Tensor:
    """D* − D = (α²/β) ∇V; both are (B, *S), t is (B,).

    At t = 0 the value is constant and its gradient zero; the shift is then taken to be zero.
    """
    beta = path.beta(t)
    scale = torch.where(beta > 0, path.alpha(t) ** 2 / torch.where(beta > 0, beta, 1), 0)
    return expand(scale.to(gradient), gradient) * gradient


def gradient_of(draws: Draws) -> Tensor:
    """∇V̂ = Σ_n w_n ∂r(x1_n)/∂x, (B, *S), from draws that have reward gradients."""
    assert draws.reward_grads is not None
    return weighted_mean(draws.reward_grads, draws.weights)


@final
@attrs.frozen(kw_only=True)
class Gradient(ValueEstimator):
    """Rewards that have a gradient: the one to try first.

    Differentiates V̂ = log (1/N) Σ_i e^{r(x1_i)} with reparametrised draws x1_i = Φ(ε_i; t, x).

        ∇V̂ = Σ_i w_i J_iᵀ ∇r(x1_i),   w = softmax(r),   J_i = ∂Φ(ε_i; t, x)/∂x,
        shift = (α²/β) ∇V̂.

    Consistent; the bias falls as 1/N.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 22 and 37.
    """

    kind: ClassVar[str] = "gradient"
    needs_gradient: ClassVar[bool] = True
    needs_sampler: ClassVar[bool] = True
    needs_model: ClassVar[type | None] = None

    draws: Count = draws_option()
    budget: int = budget_option()

    def estimate(self, problem: Problem, noisy: NoisyState, *, streams: Streams) -> Estimate:
        """Value and shift; costs N draws, N rewards and a backward pass through both."""
        draws = make_draws(
            problem, noisy, draws=self.draws, budget=self.budget, gradient=True, streams=streams
        )
        return draws.estimate(shift_of_gradient(problem.model.path, gradient_of(draws), noisy.t))
