"""Every estimator against the exact value and its gradient."""

import math

import pytest
import torch

from align.core.draws import make_draws
from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.streams import Streams
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.estimators.search import Search
from align.estimators.stein import Stein
from align.samplers.dps import DPS
from align.samplers.glass import Glass
from align.samplers.mfm import MetaFlowMap
from align.testing.worlds import line, measured, plane

EACH = [Gradient(draws=3), Stein(draws=3), Exact()]


def _set(world, rows, t, sampler=None):
    model, reward = world
    streams = Streams(0, tuple(range(rows)))
    x = streams.fold_in("x").normal(model.shape)
    t = torch.full((rows,), float(t), dtype=torch.float64)
    cond = model.encode([""] * rows)
    return (
        Problem(model, reward, sampler or MetaFlowMap(), None, cond),
        NoisyState(x, t, cond),
        streams,
    )


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_exact_shift_is_the_tilted_denoiser_s(kind, t):
    problem, noisy, streams = _set(line(kind), 5, t)
    estimate = Exact().estimate(problem, noisy, streams=streams)
    model, law = problem.model, problem.model.posterior(noisy)
    # Reward-weighted mean of x1, in closed form: each component times e^r is again Gaussian.
    gain = 1 / (1 / law.variances + 1 / 0.36)
    means = gain * (law.means[..., 0] / law.variances + 1 / 0.36)
    spread = law.variances + 0.36
    tilt = -0.5 * (law.means[..., 0] - 1) ** 2 / spread + 0.5 * torch.log(0.36 / spread)
    weights = torch.softmax(law.log_weights + tilt, -1)
    tilted = (weights * means).sum(-1, keepdim=True)
    assert torch.allclose(estimate.shift, tilted - model.denoiser(noisy), atol=1e-11)
    assert torch.allclose(estimate.value, torch.logsumexp(law.log_weights + tilt, -1), atol=1e-12)


@pytest.mark.parametrize("estimator", EACH, ids=lambda e: e.kind)
@pytest.mark.parametrize("t", [0.0, 1 - 1e-9])
def test_estimates_at_the_ends_of_time_are_finite(estimator, t):
    problem, noisy, streams = _set(plane(), 6, t)
    estimate = estimator.estimate(problem, noisy, streams=streams)
    for part in (estimate.value, estimate.ess, estimate.reward, estimate.shift):
        assert part.isfinite().all()


@pytest.mark.parametrize("sampler", [MetaFlowMap(), Glass(steps=6)], ids=lambda s: s.kind)
def test_gradient_is_the_softmax_weighted_one(sampler):
    problem, noisy, streams = _set(plane(), 4, 0.5, sampler)
    estimate = Gradient(draws=5).estimate(problem, noisy, streams=streams)
    x = noisy.x.clone().requires_grad_()
    draws = sampler.sample(
        problem.model, NoisyState(x, noisy.t, noisy.cond), draws=5, streams=streams
    )
    rewards = problem.reward_of(draws, noisy.cond)
    weights = torch.softmax(rewards, 0).detach()
    (gradient,) = torch.autograd.grad((weights * rewards).sum(), x)
    shift = (0.5**2 / 0.5) * gradient
    assert float((estimate.shift - shift).abs().max() / shift.abs().max()) < 1e-13
    assert torch.allclose(estimate.value, torch.logsumexp(rewards, 0) - math.log(5))
    assert torch.allclose(estimate.ess, 1 / weights.square().sum(0))
    assert torch.allclose(estimate.reward, rewards.mean(0))


@pytest.mark.parametrize("sampler", [MetaFlowMap(), Glass(steps=6), DPS()])
@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_gradient_by_finite_differences(sampler, kind):
    problem, noisy, streams = _set(line(kind), 20, 0.6, sampler)
    estimator, h = Gradient(draws=4), 1e-6
    up, down = (
        estimator.estimate(
            problem, NoisyState(noisy.x + d, noisy.t, noisy.cond), streams=streams
        ).value
        for d in (h, -h)
    )
    path = problem.model.path
    slope = (path.alpha(noisy.t) ** 2 / path.beta(noisy.t)) * (up - down) / (2 * h)
    shift = estimator.estimate(problem, noisy, streams=streams).shift[:, 0]
    assert torch.allclose(shift, slope, rtol=1e-5, atol=1e-6)


def _mean_estimates(estimator, t, replicates=20_000):
    """Mean value and shift over many replicates at one state, with their standard errors."""
    model, _ = line()
    reward = measured(((1.0,),), (1.0,), 0.8)
    cond = model.encode([""] * replicates)
    noisy = NoisyState(
        torch.full((replicates, 1), 0.5).double(), torch.full((replicates,), t).double(), cond
    )
    problem = Problem(model, reward, MetaFlowMap(), None, cond)
    streams = Streams(1, tuple(range(replicates)))
    one = slice(0, 1)
    exact = Exact().estimate(problem, noisy.rows(one), streams=streams.rows(one))
    estimate = estimator.estimate(problem, noisy, streams=streams)
    error = replicates**-0.5
    return (
        (estimate.value.mean() - exact.value[0], estimate.value.std() * error),
        (estimate.shift.mean() - exact.shift[0, 0], estimate.shift.std() * error),
    )


@pytest.mark.parametrize("kind", [Gradient, Stein])
def test_bias_falls_as_one_over_n(kind):
    (value2, e2), (shift2, s2) = _mean_estimates(kind(draws=2), 0.75)
    (value8, e8), (shift8, s8) = _mean_estimates(kind(draws=8), 0.75)
    assert value2 < -5 * e2  # Jensen: too low
    # Four times the draws, a fourth of the bias; the next order is a tenth of it here.
    assert abs(value2 - 4 * value8) < 0.2 * abs(value2) + 3 * (e2 + 4 * e8)
    assert abs(shift2) > 5 * s2
    assert abs(shift2 - 4 * shift8) < 0.2 * abs(shift2) + 3 * (s2 + 4 * s8)


@pytest.mark.parametrize("estimator", [Stein(draws=1), Stein(draws=1, centring="unbiased")])
def test_stein_shift_of_one_draw_is_exactly_zero(estimator):
    problem, noisy, streams = _set(plane(), 8, 0.5)
    assert not estimator.estimate(problem, noisy, streams=streams).shift.any()


def test_centring_chooses_what_the_weighted_mean_is_compared_with():
    problem, noisy, streams = _set(line(), 6, 0.4)
    draws = MetaFlowMap().sample(problem.model, noisy, draws=4, streams=streams)
    weights = torch.softmax(problem.reward_of(draws, noisy.cond), 0)[..., None]
    mean, velocity, unbiased = (
        Stein(draws=4, centring=kind).estimate(problem, noisy, streams=streams).shift
        for kind in ("mean", "velocity", "unbiased")
    )
    weighted = (weights * draws).sum(0)
    assert torch.allclose(mean, weighted - draws.mean(0), atol=1e-13)
    assert torch.allclose(velocity, weighted - problem.model.denoiser(noisy), atol=1e-12)
    assert torch.allclose(unbiased, mean * 4 / 3, atol=1e-13)


@pytest.mark.parametrize("centring", ["unbiased", "regression"])  # the kit has the others
def test_stein_is_consistent(centring):
    problem, noisy, streams = _set(line(), 5, 0.2)
    estimate = Stein(draws=40_000, centring=centring).estimate(problem, noisy, streams=streams)
    exact = Exact().estimate(problem, noisy, streams=streams)
    assert torch.allclose(estimate.shift, exact.shift, atol=0.03)
    assert torch.allclose(estimate.value, exact.value, atol=0.03)


def test_gradient_is_consistent_and_precise_late():
    problem, noisy, streams = _set(line(), 20, 0.9)
    estimate = Gradient(draws=500).estimate(problem, noisy, streams=streams)
    exact = Exact().estimate(problem, noisy, streams=streams)
    error = (estimate.shift - exact.shift).square().mean().sqrt()
    assert error < 0.02 * exact.shift.square().mean().sqrt()


def test_a_point_mass_follows_the_reward_at_the_denoiser():
    problem, noisy, streams = _set(line(), 5, 0.5, DPS())
    estimate = Gradient(draws=2).estimate(problem, noisy, streams=streams)
    law = problem.model.posterior(noisy)
    mean = law.mean()
    second = (law.log_weights.exp() * (law.variances + law.means[..., 0] ** 2)).sum(-1)
    variance = second[:, None] - mean**2
    # ∂D/∂x = (β/α²) Cov[x1 | x], so that the shift is Cov ∇r(D).
    assert torch.allclose(estimate.shift, variance * (1 - mean) / 0.36, atol=1e-10)


def test_counts_of_draws_do_not_pass_through_single_precision():
    problem, noisy, streams = _set(line(), 4, 0.5)
    plain, unbiased = (
        Stein(draws=12, centring=centring).estimate(problem, noisy, streams=streams).shift
        for centring in ("mean", "unbiased")
    )
    assert torch.allclose(unbiased, plain * 12 / 11, rtol=1e-15, atol=0)
    draws = make_draws(problem, noisy, draws=12, budget=12, gradient=False, streams=streams)
    best, second = draws.rewards.topk(2, 0).values
    error = Search(draws=12).estimate(problem, noisy, streams=streams).error
    assert torch.allclose(error, (best - second) * 11 / 12, rtol=1e-15, atol=0)
