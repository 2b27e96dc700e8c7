"""MFM-G: the value's gradient, through the sampler, the decoder and the reward."""

from __future__ import annotations

import math
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.estimator import Estimate, ValueEstimator
from align.core.model import At
from align.core.option import at_least, option
from align.core.path import Path, expand
from align.core.problem import Problem
from align.core.streams import Streams
from align.errors import PartError


def shift_of_gradient(path: Path, gradient: Tensor, t: Tensor) -> Tensor:
    """D* − D = (α²/β) ∇V; both are (B, *S), t is (B,).

    At t = 0 the value is constant, its gradient says nothing, and the shift is taken to be zero.
    """
    beta = path.beta(t)
    scale = torch.where(beta > 0, path.alpha(t) ** 2 / torch.where(beta > 0, beta, 1), 0)
    return expand(scale.to(gradient), gradient) * gradient


def effective_size(rewards: Tensor) -> Tensor:
    """(Σ w)² / Σ w² (B,) of the weights w ∝ e^{r} of rewards (N, B)."""
    return 1 / torch.softmax(rewards, 0).square().sum(0)


@final
@attrs.frozen(kw_only=True)
class Gradient(ValueEstimator):
    """Differentiates V̂ = log (1/N) Σ_i e^{r(x1_i)} with reparametrised draws x1_i = Φ(ε_i; t, x).

        ∇V̂ = Σ_i w_i J_iᵀ ∇r(x1_i),   w = softmax(r),   J_i = ∂Φ(ε_i; t, x)/∂x,
        shift = (α²/β) ∇V̂.

    Consistent; the bias falls as 1/N.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 22 and 37.
    """

    kind: ClassVar[str] = "gradient"
    needs_gradient: ClassVar[bool] = True
    needs_sampler: ClassVar[bool] = True
    needs_model: ClassVar[type | None] = None

    draws: int = option("posterior draws N at each state", default=4, check=at_least(1))

    def estimate(self, problem: Problem, at: At, *, streams: Streams) -> Estimate:
        """Value and shift; costs N draws, N rewards and the way back through both."""
        if problem.sampler is None:
            raise PartError("estimator 'gradient' needs a sampler")
        with torch.enable_grad():
            x = at.x.detach().requires_grad_()
            here = At(x, at.t, at.cond)
            draws = problem.sampler.sample(problem.model, here, draws=self.draws, streams=streams)
            rewards = problem.reward_of(draws, at.cond)
            value = torch.logsumexp(rewards, 0) - math.log(self.draws)
            # Row b of the value depends on row b of x alone, so the sum's gradient is each row's.
            (gradient,) = torch.autograd.grad(value.sum(), x)
        rewards = rewards.detach()
        return Estimate(
            value=value.detach(),
            shift=shift_of_gradient(problem.model.path, gradient, at.t),
            ess=effective_size(rewards),
            reward=rewards.mean(0),
        )
