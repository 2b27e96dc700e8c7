"""The options of the gradient, one by one, against closed forms."""

import pytest
import torch

from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.streams import Streams
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.models.mixture import Mixture
from align.modes.sampling.steer import Steer
from align.samplers.exact import ExactPosterior
from align.samplers.gaussian import posterior_moments
from align.samplers.mfm import MetaFlowMap
from align.testing.distances import sliced_w2
from align.testing.worlds import line, measured, plane, sampled

PATHS = ["linear", "trigonometric"]


def states(world, rows, t, sampler=None):
    model, reward = world
    streams = Streams(2, tuple(range(rows)))
    t = torch.full((rows,), float(t), dtype=torch.float64)
    x = model.path.interpolate(streams.fold_in("x").normal(model.shape), model.draw(streams), t)
    cond, sampler = model.encode([""] * rows), sampler or MetaFlowMap()
    return Problem(model, reward, sampler, None, cond), NoisyState(x, t, cond), streams


def gaussian(path):
    spec = Mixture(weights=(1.0,), means=((0.5, -1.0),), stds=(0.6,), path=path)
    return spec.build(torch.device("cpu")), measured(((1.2, -0.8),), (-1.0,), 0.5)


@pytest.mark.parametrize("sampler", [MetaFlowMap(), ExactPosterior()], ids=lambda part: part.kind)
@pytest.mark.parametrize("weights", ["softmax", "uniform"])
def test_denoiser_leads_gradients_back_by_the_posteriors_covariance(weights, sampler):
    """Shift = Cov[x1 | x] Σ w ∇r(x1), of draws that need no gradient of their own."""
    problem, noisy, streams = states(plane(), 5, 0.4, sampler)
    estimator = Gradient(draws=3, weights=weights, jacobian="denoiser")
    found = estimator.estimate(problem, noisy, streams=streams)
    x1 = sampler.sample(problem.model, noisy, draws=3, streams=streams).requires_grad_()
    rewards = problem.reward_of(x1, noisy.cond)
    (grads,) = torch.autograd.grad(rewards.sum(), x1)
    share = torch.softmax(rewards, 0) if weights == "softmax" else torch.full((3, 5), 1 / 3)
    mean = (share.detach()[..., None] * grads).sum(0)
    denoiser, covariance = posterior_moments(problem.model, noisy)
    assert torch.allclose(found.shift, (covariance @ mean[..., None])[..., 0])
    assert torch.allclose(found.denoiser, denoiser)


@pytest.mark.parametrize("path", PATHS)
def test_denoiser_and_draw_agree_on_gaussian_data(path):
    problem, noisy, streams = states(gaussian(path), 5, 0.4)
    by_draw, by_denoiser = (
        Gradient(draws=3, jacobian=kind).estimate(problem, noisy, streams=streams).shift
        for kind in ("draw", "denoiser")
    )
    assert torch.allclose(by_draw, by_denoiser)


@pytest.mark.parametrize("path", PATHS)
def test_antithetic_pair_has_the_exact_mean_gradient_of_a_quadratic(path):
    """What is linear in the noise cancels: (1/2) Σ ∇r(D ± δ) = ∇r(D)."""
    problem, noisy, streams = states(gaussian(path), 6, 0.3)
    found = Gradient(draws=2, weights="uniform", noise="antithetic")
    plain = Gradient(draws=2, weights="uniform")
    model = problem.model
    slope = torch.tensor([1.2, -0.8]).double()
    gap = -1.0 - model.denoiser(noisy) @ slope
    _, covariance = posterior_moments(model, noisy)
    wanted = covariance @ slope * (gap / 0.25)[:, None]
    assert torch.allclose(found.estimate(problem, noisy, streams=streams).shift, wanted)
    assert not torch.allclose(plain.estimate(problem, noisy, streams=streams).shift, wanted)


@pytest.mark.parametrize("path", PATHS)
def test_even_draws_take_away_most_of_the_noise(path):
    """Standard deviations of the value on the line, 16 draws, over those of independent ones."""
    problem, noisy, _ = states(line(path), 1, 0.5)
    many, streams = noisy.tile(400), Streams(5, tuple(range(400)))
    wanted = Exact().estimate(problem, noisy, streams=streams.rows(slice(1)))
    spreads = {}
    for kind in ("independent", "antithetic", "sobol"):
        found = Gradient(draws=16, noise=kind).estimate(problem, many, streams=streams)
        spreads[kind] = float(found.value.std())
        off = (found.value.exp() / wanted.value.exp() - 1).mean()
        assert abs(off) < 5 * spreads[kind] / 20 + 1e-3  # e^V̂ stays unbiased
    assert spreads["antithetic"] < 0.8 * spreads["independent"]
    assert spreads["sobol"] < 0.25 * spreads["independent"]


@pytest.mark.parametrize("noise", ["antithetic", "sobol"])
@pytest.mark.parametrize(("steps", "near"), [(6, 0.4), (16, 0.22)])
def test_steering_by_even_draws_reaches_the_tilted_law(steps, near, noise):
    world, rows = gaussian("linear"), 192
    exact = world[0].draw_tilted(world[1], Streams(1, tuple(range(4 * rows))))
    found = sampled(
        Steer(steps=steps),
        world,
        rows,
        sampler=MetaFlowMap(),
        estimator=Gradient(draws=8, noise=noise),
    )
    assert sliced_w2(found, exact) < near
