"""A gradient that is damped by the curvature of the reward across the posterior."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.draws import Count, Draws, budget_option, draws_option, make_draws, weighted_mean
from align.core.errors import PartError
from align.core.estimate import Estimate
from align.core.estimator import ValueEstimator
from align.core.model import NoisyState
from align.core.option import above, at_least, option
from align.core.path import Path, expand
from align.core.problem import Problem
from align.core.streams import Streams
from align.estimators.gradient import shift_of_gradient


def measured_damping(shifts: Tensor, x1: Tensor, equal: Tensor) -> Tensor:
    """κ Σ_t ≥ 0 along the mean shift, (B,), by regression over the draws.

    For Gaussian data and a quadratic reward of curvature K the shift of a draw is Σ_t ∇r(x1), so
    that the differences of shifts are −Σ_t K times those of the draws. The slope of the one on the
    other, both projected on the mean shift, is then exact wherever the mean shift is an
    eigenvector of K: from any two draws that differ along it.

    Args:
        shifts: (α²/β) ∂r/∂x of each draw, (N, B, *S).
        x1: the draws, (N, B, *S).
        equal: 1/N for each draw that was made, (N, B).
    """
    mean = weighted_mean(shifts, equal)
    rises = ((shifts - mean) * mean).flatten(2).double().sum(2)
    moves = ((x1 - weighted_mean(x1, equal)) * mean).flatten(2).double().sum(2)
    present = equal > 0
    spread = torch.where(present, moves.square(), 0).sum(0)
    slope = torch.where(present, moves * rises, 0).sum(0)
    # Draws that differ by rounding alone measure nothing.
    size = mean.flatten(1).double().square().sum(1) * x1.flatten(2).double().square().sum(2).amax(0)
    known = spread > (16 * torch.finfo(x1.dtype).eps) ** 2 * size
    return torch.where(known, -slope / torch.where(known, spread, 1), 0).clamp(min=0)


@final
@attrs.frozen(kw_only=True)
class Damped(ValueEstimator):
    """Sharp rewards, few draws: guidance without overshoot.

    Damps the mean gradient of the draws by the curvature κ of r across the posterior.

        shift = (1 / (1 + κ Σ_t)) (α²/β) (1/N) Σ_i ∂r(x1_i)/∂x,
        Σ_t = α² s² / (α² + β² s²).

    A gradient at one guess of the clean state takes no account of how much the reward bends over
    the other clean states that are possible. For Gaussian data of deviation s and r = −½ κ ‖x1 −
    y‖², ∇V is the gradient at the denoiser times 1 / (1 + κ Σ_t), so that the shift is exact with
    sampler 'dps', and unbiased with posterior draws, from one draw on. Elsewhere it is an
    approximation by one Gaussian.

    Without `curvature`, κ Σ_t is measured at each state from the differences of the draws (two are
    enough), along the direction of the mean gradient and not below 0; s is not used then. Where the
    posterior has several modes the measure is of little use, as the map from noise to draws is
    steep between them: there set `curvature`, with the s of one mode.

    Derived for align from that case; no paper's damping was followed. That guidance from few draws
    is biased where rewards bend is a subject of arXiv:2606.02884, 2026, too, which was not read.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 37 (what is damped).
    """

    kind: ClassVar[str] = "damped"
    needs_gradient: ClassVar[bool] = True
    needs_sampler: ClassVar[bool] = True
    needs_model: ClassVar[type | None] = None

    draws: Count = draws_option(2)
    budget: int = budget_option()
    curvature: float | None = option(
        "curvature κ of the reward, weights included; left out, κ Σ_t is measured from the draws",
        default=None,
        check=attrs.validators.optional(at_least(0)),
    )
    data_std: float = option(
        "standard deviation s of the data's elements, for `curvature`", default=1.0, check=above(0)
    )

    def __attrs_post_init__(self) -> None:
        if self.draws == 1 and self.curvature is None:
            raise ValueError(
                "'draws' must be at least 2 where 'curvature' is left out: it is measured from the"
                " differences of draws"
            )

    def estimate(self, problem: Problem, noisy: NoisyState, *, streams: Streams) -> Estimate:
        """Value and shift; costs N draws, N rewards and a backward pass through both.

        Raises:
            PartError: there is no `curvature`, and the draws of the sampler do not differ.
        """
        draws = make_draws(
            problem, noisy, draws=self.draws, budget=self.budget, gradient=True, streams=streams
        )
        if draws.point and self.curvature is None:
            raise PartError(
                "estimator 'damped' measures the reward's curvature from draws that differ, and the"
                " sampler has one draw alone; set 'curvature'"
            )
        return draws.estimate(self._shift(problem.model.path, draws, noisy.t))

    def _shift(self, path: Path, draws: Draws, t: Tensor) -> Tensor:
        assert draws.reward_grads is not None
        factor = shift_of_gradient(path, torch.ones_like(t), t)
        shifts = expand(factor.to(draws.reward_grads), draws.reward_grads[0]) * draws.reward_grads
        if self.curvature is None:
            damping = measured_damping(shifts, draws.x1, draws.equal)
        else:
            noise_variance, data_variance = path.alpha(t) ** 2, (self.data_std * path.beta(t)) ** 2
            spread = self.data_std**2 * noise_variance / (noise_variance + data_variance)
            damping = self.curvature * spread
        mean = weighted_mean(shifts, draws.equal)
        return expand((1 / (1 + damping)).to(mean), mean) * mean
