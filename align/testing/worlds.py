"""Closed-form worlds: mixtures with a measurement, where everything is known."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from align.core.estimator import ValueEstimator
from align.core.mode import AlignmentMode
from align.core.path import PathName
from align.core.problem import Problem
from align.core.reward import Term, WeightedReward
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.models.mixture import GaussianMixture, Mixture
from align.rewards.linear import Likelihood


def line(
    path: PathName = "linear",
) -> tuple[GaussianMixture, WeightedReward]:
    """Three components on the line, and R(x) = −(x − 1)² / (2 · 0.6²)."""
    model = Mixture(
        weights=(0.3, 0.45, 0.25), means=((-2.0,), (0.5,), (2.5,)), stds=(0.4, 0.7, 0.3), path=path
    ).build(torch.device("cpu"))
    return model, measured(((1.0,),), (1.0,), 0.6)


def plane(*, diagonal: bool = True) -> tuple[GaussianMixture, WeightedReward]:
    """Three components on the diagonal of the plane, and y = 1.2 x_1 − 0.8 x_2 + N(0, 0.2²) = −1.

    With `diagonal` the posterior map goes along the diagonal first, then across it.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, appendix F.1.
    """
    half = math.sqrt(0.5)
    model = Mixture(
        weights=(1, 1, 1),
        means=((-3.0, -3.0), (0.0, 0.0), (3.0, 3.0)),
        stds=(half, half, half),
        axes=((half, half), (half, -half)) if diagonal else (),
    ).build(torch.device("cpu"))
    return model, measured(((1.2, -0.8),), (-1.0,), 0.2)


def measured(
    matrix: tuple[tuple[float, ...], ...], observed: tuple[float, ...], std: float
) -> WeightedReward:
    """The likelihood of a linear measurement as a run's only reward."""
    spec = Likelihood(matrix=matrix, observed=observed, std=std)
    return WeightedReward((Term(name="likelihood", reward=spec.build(torch.device("cpu"))),))


def sampled(
    mode: AlignmentMode[Any],
    world: tuple[GaussianMixture, WeightedReward],
    rows: int | tuple[int, ...],
    *,
    sampler: PosteriorSampler | None = None,
    estimator: ValueEstimator | None = None,
    seed: int = 0,
) -> Tensor:
    """Clean states (B, D) that a mode makes for the samples `rows`, or for 0 .. `rows` − 1."""
    model, reward = world
    samples = tuple(range(rows)) if isinstance(rows, int) else rows
    streams = Streams(seed, samples)
    cond = model.encode([""] * len(samples))
    problem = Problem(model, reward, sampler, estimator, cond)
    state = mode.init(problem, streams)
    for index in range(mode.steps):
        state, _ = mode.step(problem, state, index, streams)
    x1 = mode.finish(problem, state)
    if x1 is None:
        raise TypeError(f"mode '{mode.kind}' makes no samples")
    return x1
