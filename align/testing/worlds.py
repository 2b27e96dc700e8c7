"""Closed-form worlds: mixtures with a measurement, where everything is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, final

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from align.core.estimate import Estimate
from align.core.estimator import ClosedForm, ValueEstimator
from align.core.mode import AlignmentMode
from align.core.model import FlowModel, NoisyState
from align.core.path import PathName
from align.core.problem import Problem
from align.core.quadratic import Form
from align.core.reward import Reward, Term, WeightedReward
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.estimators.gradient import shift_of_gradient
from align.models.isotropic import Isotropic
from align.models.mixture import GaussianMixture, Mixture
from align.rewards.linear import Likelihood


def line(
    path: PathName = "linear",
) -> tuple[GaussianMixture, WeightedReward]:
    """Three components on the line, and R(x) = −(x − 1)² / (2 · 0.6²)."""
    return line_part(path).build(torch.device("cpu")), measured(((1.0,),), (1.0,), 0.6)


def line_part(path: PathName = "linear") -> Mixture:
    """The model of `line` as a recipe names it."""
    return Mixture(
        weights=(0.3, 0.45, 0.25), means=((-2.0,), (0.5,), (2.5,)), stds=(0.4, 0.7, 0.3), path=path
    )


def unequal(path: PathName = "linear") -> tuple[GaussianMixture, WeightedReward]:
    """Three components of unequal spread and weight in the plane, and log σ(2 x_1 − x_2 + 0.5).

    The reward is not quadratic: its value is known by quadrature, see `ByQuadrature`.
    """
    model = Mixture(
        weights=(0.5, 0.3, 0.2),
        means=((-1.5, 0.5), (1.0, 1.5), (1.5, -1.5)),
        stds=(0.35, 0.9, 0.55),
        path=path,
    ).build(torch.device("cpu"))
    reward = LogSigmoid(torch.tensor([2.0, -1.0], dtype=torch.float64), 0.5)
    return model, WeightedReward((Term(name="log-sigmoid", reward=reward),))


@final
@attrs.frozen(eq=False)
class LogSigmoid(Reward):
    """R(x) = log σ(a · x + b), as a classifier's log-probability of one of two classes.

    e^R is at most 1, so that exact draws of p e^R are draws of p kept with that probability.
    """

    slope: Tensor
    offset: float

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """R (B,) of vectors (B, D)."""
        return F.logsigmoid(data @ self.slope + self.offset)

    def kept(self, model: GaussianMixture, streams: Streams) -> Tensor:
        """Exact draws (n, D) of p e^R: of one draw of the model for each row, those that are kept.

        The number n is random, about e^{V_0} of the rows.
        """
        x1 = model.draw(streams)
        return x1[streams.fold_in("kept").uniform(()) < self.score(x1, ()).exp()]

    def value(self, model: GaussianMixture, noisy: NoisyState, nodes: int = 80) -> Tensor:
        """V_t(x) = log Σ_k p(k | x) E[σ(a · x1 + b) | k, x], (B,), by Gauss-Hermite quadrature.

        Along a the components are Gaussian, of mean a · m and variance |a|² v.
        """
        law = model.posterior(noisy)
        places, weights = (
            torch.from_numpy(part).to(noisy.x) for part in np.polynomial.hermite_e.hermegauss(nodes)
        )
        spread = (law.variances * self.slope.square().sum()).sqrt()
        along = (law.means @ self.slope)[..., None] + spread[..., None] * places + self.offset
        log_means = torch.logsumexp(F.logsigmoid(along) + (weights / weights.sum()).log(), -1)
        return torch.logsumexp(law.log_weights + log_means, -1)


@final
@attrs.frozen(kw_only=True)
class ByQuadrature(ValueEstimator):
    """V_t of `LogSigmoid` and shift = (α²/β) ∇V_t, to rounding: the right value of that reward."""

    kind: ClassVar[str] = "by_quadrature"
    needs_gradient: ClassVar[bool] = False
    needs_sampler: ClassVar[bool] = False
    needs_model: ClassVar[type | None] = ClosedForm

    def estimate(self, problem: Problem, noisy: NoisyState, *, streams: Streams) -> Estimate:
        """Value and shift at the states of `noisy`."""
        model, (term,) = problem.model, problem.reward.terms
        if not isinstance(model, GaussianMixture) or not isinstance(term.reward, LogSigmoid):
            raise TypeError("quadrature is for a mixture and a log-sigmoid reward")
        with torch.enable_grad():
            x = noisy.x.detach().requires_grad_()
            value = term.reward.value(model, NoisyState(x, noisy.t, noisy.cond))
            (gradient,) = torch.autograd.grad(value.sum(), x)
        one, value = torch.ones_like(noisy.t), value.detach()
        return Estimate(
            value=value,
            error=0 * one,
            shift=shift_of_gradient(model.path, gradient, noisy.t),
            ess=one,
            reward=value,
            draws=0 * one.long(),
            denoiser=model.denoiser(noisy),
        )


def plane(*, diagonal: bool = True) -> tuple[GaussianMixture, WeightedReward]:
    """Three components on the diagonal of the plane, and y = 1.2 x_1 − 0.8 x_2 + N(0, 0.2²) = −1.

    With `diagonal` the posterior map goes along the diagonal first, then across it.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, appendix F.1.
    """
    model = plane_part(diagonal=diagonal).build(torch.device("cpu"))
    return model, measured(((1.2, -0.8),), (-1.0,), 0.2)


def plane_part(*, diagonal: bool = True) -> Mixture:
    """The model of `plane` as a recipe names it."""
    half = math.sqrt(0.5)
    return Mixture(
        weights=(1, 1, 1),
        means=((-3.0, -3.0), (0.0, 0.0), (3.0, 3.0)),
        stds=(half, half, half),
        axes=((half, half), (half, -half)) if diagonal else (),
    )


def measured(
    matrix: tuple[tuple[float, ...], ...], observed: tuple[float, ...], std: float
) -> WeightedReward:
    """The likelihood of a linear measurement as a run's only reward."""
    spec = Likelihood(matrix=matrix, observed=observed, std=std)
    return WeightedReward((Term(name="likelihood", reward=spec.build(torch.device("cpu"))),))


def tuned(model: GaussianMixture, reward: WeightedReward) -> GaussianMixture:
    """The mixture that perfect fine-tuning makes of another: that of p e^r.

    Raises:
        ValueError: the reward sees some directions more than others, so that tilted components have
            no single variance; on a line there are no others.
    """
    prior, form = model.prior, Form.of(reward, model.prior.means)
    if not torch.allclose(form.quadratic, form.quadratic[:1]):
        raise ValueError("the reward must be as sharp in every direction; take one on a line")
    scale = 1 + prior.variances * form.quadratic[0]
    pull = form.linear @ form.axes.T - form.quadratic[0] * prior.means
    tilted = Isotropic(
        torch.log_softmax(prior.log_weights + prior.log_tilts(form), -1),
        prior.means + (prior.variances / scale)[..., None] * pull,
        prior.variances / scale,
    )
    return GaussianMixture(tilted, model.path, model.axes)


def sampled(
    mode: AlignmentMode[Any],
    world: tuple[FlowModel, WeightedReward],
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
