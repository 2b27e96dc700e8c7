"""MFM-GF: the value's gradient from weighted draws, without the reward's gradient."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.draws import Count, Draws, budget_option, drawn, draws_option
from align.core.estimator import Estimate, ValueEstimator
from align.core.model import At
from align.core.option import option
from align.core.path import expand
from align.core.problem import Problem
from align.core.streams import Streams

Centring: TypeAlias = Literal["mean", "velocity", "unbiased"]


def denoiser_of(problem: Problem, at: At) -> Tensor:
    """D_t(x), (B, *S), for one network call."""
    velocity = problem.model.velocity(at.x, at.t, at.cond)
    return problem.model.path.denoiser_from_velocity(velocity, at.x, at.t)


def centred(draws: Draws, centring: Centring) -> Tensor:
    """Σ_n w_n x1_n less the mean of the draws, (B, *S), times N / (N − 1) if "unbiased"."""
    there = draws.rewards.isfinite() / draws.counts
    # One sum of differences: no cancellation, and exactly zero when all weights are equal.
    shift = draws.mean(draws.weights - there)
    if centring == "unbiased":
        factor = draws.counts / (draws.counts - 1).clamp(min=1)
        shift = expand(factor.to(shift), shift) * shift
    return shift


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

    draws: Count = draws_option()
    budget: int = budget_option()
    centring: Centring = option(
        "what the weighted mean of the draws is compared with", default="mean"
    )

    @torch.no_grad()
    def estimate(self, problem: Problem, at: At, *, streams: Streams) -> Estimate:
        """Value and shift; costs N draws and N rewards, and "velocity" a network call."""
        draws = drawn(problem, at, draws=self.draws, budget=self.budget, gradient=False,
                      streams=streams)  # fmt: skip
        if self.centring != "velocity":
            return draws.estimate(centred(draws, self.centring))
        denoiser = draws.x1[0] if draws.point else denoiser_of(problem, at)
        found = draws.estimate(draws.mean(draws.weights) - denoiser)
        return attrs.evolve(found, denoiser=denoiser)
