"""MFM-G: the value's gradient, through the sampler, the decoder and the reward."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import attrs
import torch
from torch import Tensor

from align.core.draws import Count, Draws, budget_option, draws_option, make_draws, weighted_mean
from align.core.estimate import Estimate
from align.core.estimator import ValueEstimator
from align.core.model import NoisyState
from align.core.option import option
from align.core.path import Path, expand
from align.core.problem import Problem
from align.core.streams import Scheme, Streams


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


def through_denoiser(
    problem: Problem, noisy: NoisyState, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """(∂D/∂x)ᵀ g and D, both (B, *S), for g = `gradient` (B, *S) by the clean state.

    Costs a network call a state and a backward pass through it.
    """
    path, model = problem.model.path, problem.model

    def piece(rows: slice) -> tuple[Tensor, Tensor]:
        some = noisy.rows(rows)
        with torch.enable_grad():
            x = some.x.detach().requires_grad_()
            velocity = model.velocity(x, some.t, some.cond)
            denoiser = path.denoiser_from_velocity(velocity, x, some.t)
            (led_back,) = torch.autograd.grad((denoiser * gradient[rows]).sum(), x)
        return led_back, denoiser.detach()

    parts = problem.chunks.cut("gradient of the denoiser", len(noisy.x), piece)
    led_back, denoiser = (torch.cat(part) for part in zip(*parts, strict=True))
    return led_back, denoiser


@final
@attrs.frozen(kw_only=True)
class Gradient(ValueEstimator):
    """Rewards that have a gradient: the one to try first.

    Differentiates V̂ = log (1/N) Σ_i e^{r(x1_i)} with reparametrised draws x1_i = Φ(ε_i; t, x).

        ∇V̂ = Σ_i w_i J_iᵀ ∇r(x1_i),   w = softmax(r),   J_i = ∂Φ(ε_i; t, x)/∂x,
        shift = (α²/β) ∇V̂.

    Consistent; the bias falls as 1/N. Its parts can be exchanged one by one:

    With `weights = "uniform"` w = 1/N: the gradient of E[r(x1)], not of V. With `jacobian =
    "denoiser"` J_i is ∂D_t(x)/∂x for every draw, so that shift = Cov[x1 | x] Σ_i w_i ∇r(x1_i): the
    same for a Gaussian posterior, smooth where the map from noise to draws is steep between modes,
    and biased there. The sampler is then not differentiated. What is drawn, the sampler says:
    posterior draws ('mfm', 'glass'), a Gaussian about the denoiser ('gaussian') or the denoiser
    alone ('dps').

    `noise` couples the draws of a state: "antithetic" noises come in pairs ε, −ε, so that what is
    odd in ε cancels; "sobol" spreads them evenly by a scrambled Sobol sequence. Each draw keeps its
    law, so that e^V̂ stays unbiased; `error` is that of independent draws, as a rule too large.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 22 and 37; Monte Carlo
    theory, methods and examples, Owen, 2013, section 8.2 and chapter 17 (`noise`); the other
    options are our own ablation.
    """

    kind: ClassVar[str] = "gradient"
    needs_gradient: ClassVar[bool] = True
    needs_sampler: ClassVar[bool] = True
    needs_model: ClassVar[type | None] = None

    draws: Count = draws_option()
    budget: int = budget_option()
    weights: Literal["softmax", "uniform"] = option(
        "whether draws count by their rewards, or alike", default="softmax"
    )
    jacobian: Literal["draw", "denoiser"] = option(
        "what leads the gradients at the draws back to the state: each draw's map, or the denoiser",
        default="draw",
    )
    noise: Scheme = option(
        "how the noises of a state's draws depend on each other", default="independent"
    )

    def estimate(self, problem: Problem, noisy: NoisyState, *, streams: Streams) -> Estimate:
        """Value and shift; costs N draws, N rewards and a backward pass through both.

        With `jacobian = "denoiser"` the backward pass is through the N rewards and one network
        call, whose denoiser is part of the estimate.
        """
        own = self.jacobian == "draw"
        draws = make_draws(
            problem,
            noisy,
            draws=self.draws,
            budget=self.budget,
            gradient=True,
            streams=attrs.evolve(streams, scheme=self.noise),
            through_sampler=own,
        )
        assert draws.reward_grads is not None
        weights = draws.weights if self.weights == "softmax" else draws.equal
        gradient, denoiser = weighted_mean(draws.reward_grads, weights), None
        if not own:
            gradient, denoiser = through_denoiser(problem, noisy, gradient)
        estimate = draws.estimate(shift_of_gradient(problem.model.path, gradient, noisy.t))
        return estimate if denoiser is None else attrs.evolve(estimate, denoiser=denoiser)
