"""MFM-GF: the value's gradient from weighted draws, without the reward's gradient."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, final

import attrs
import torch
from torch import Tensor

from align.core.estimator import Estimate, ValueEstimator
from align.core.model import At
from align.core.option import at_least, option
from align.core.path import expand
from align.core.problem import Problem
from align.core.streams import Streams
from align.errors import PartError


@final
@attrs.frozen(kw_only=True)
class Stein(ValueEstimator):
    """Compares the reward-weighted mean of the draws with their plain mean.

        shift = Σ_i w_i x1_i − centre,   w = softmax(r).

    The centre is the draws' own mean ("mean": with one draw the shift is zero), the denoiser
    ("velocity": unbiased for small rewards, noisier with few draws), or the draws' mean with the
    shift scaled by N/(N−1) ("unbiased": no shrinkage for small rewards).

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 20.
    """

    kind: ClassVar[str] = "stein"
    needs_gradient: ClassVar[bool] = False
    needs_sampler: ClassVar[bool] = True
    needs_model: ClassVar[type | None] = None

    draws: int = option("posterior draws N at each state", default=4, check=at_least(1))
    centring: Literal["mean", "velocity", "unbiased"] = option(
        "what the weighted mean of the draws is compared with", default="mean"
    )

    @torch.no_grad()
    def estimate(self, problem: Problem, at: At, *, streams: Streams) -> Estimate:
        """Value and shift; costs N draws and N rewards."""
        if problem.sampler is None:
            raise PartError("estimator 'stein' needs a sampler")
        draws = problem.sampler.sample(problem.model, at, draws=self.draws, streams=streams)
        rewards = problem.reward_of(draws, at.cond)
        weights = torch.softmax(rewards, 0)
        return Estimate(
            value=torch.logsumexp(rewards, 0) - math.log(self.draws),
            shift=self._shift(problem, at, draws, weights.to(draws)),
            ess=1 / weights.square().sum(0),
            reward=rewards.mean(0),
        )

    def _shift(self, problem: Problem, at: At, draws: Tensor, weights: Tensor) -> Tensor:
        if self.centring == "velocity":
            model = problem.model
            velocity = model.velocity(at.x, at.t, at.cond)
            centre = model.path.denoiser_from_velocity(velocity, at.x, at.t)
            return (expand(weights, draws) * draws).sum(0) - centre
        # One sum of differences: no cancellation, and exactly zero when all weights are equal.
        shift = (expand(weights - 1 / self.draws, draws) * draws).sum(0)
        if self.centring == "unbiased" and self.draws > 1:
            shift = shift * (self.draws / (self.draws - 1))
        return shift
