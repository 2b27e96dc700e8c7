"""Damped guidance, against the closed form of Gaussian data and quadratic rewards."""

import pytest
import torch

from align.core.errors import PartError
from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.streams import Streams
from align.estimators.damped import Damped, measured_damping
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.models.mixture import Mixture
from align.modes.sampling.steer import Steer
from align.samplers.dps import DPS
from align.samplers.mfm import MetaFlowMap
from align.testing.distances import sliced_w2
from align.testing.worlds import measured, sampled

ROUND = ((1.0, 0.0), (0.0, 1.0)), (2.0, 0.5), 0.3
ALONG = ((1.2, -0.8),), (-1.0,), 0.25
CURVATURES = {"round": 1 / 0.09, "along": 2.08 / 0.0625}


def gaussian(reward, path="linear", std=0.6):
    """One Gaussian in the plane, and a reward that bends alike everywhere or along one line."""
    spec = Mixture(weights=(1.0,), means=((0.5, -1.0),), stds=(std,), path=path)
    matrix, observed, width = {"round": ROUND, "along": ALONG}[reward]
    return spec.build(torch.device("cpu")), measured(matrix, observed, width)


def states(world, rows, t, sampler):
    model, reward = world
    streams = Streams(2, tuple(range(rows)))
    t = torch.full((rows,), float(t), dtype=torch.float64)
    x = model.path.interpolate(streams.fold_in("x").normal(model.shape), model.draw(streams), t)
    cond = model.encode([""] * rows)
    return Problem(model, reward, sampler, None, cond), NoisyState(x, t, cond), streams


@pytest.mark.parametrize("reward", ["round", "along"])
@pytest.mark.parametrize("path", ["linear", "trigonometric"])
def test_damped_gradient_at_the_denoiser_is_exact(path, reward):
    problem, noisy, streams = states(gaussian(reward, path), 6, 0.4, DPS())
    damped = Damped(draws=1, curvature=CURVATURES[reward], data_std=0.6)
    got = damped.estimate(problem, noisy, streams=streams).shift
    wanted = Exact().estimate(problem, noisy, streams=streams).shift
    assert torch.allclose(got, wanted, rtol=1e-9)
    plain = Gradient(draws=1).estimate(problem, noisy, streams=streams).shift
    assert (plain - wanted).norm() > 2 * wanted.norm()


@pytest.mark.parametrize("reward", ["round", "along"])
@pytest.mark.parametrize("t", [0.05, 0.4, 0.95])
@pytest.mark.parametrize("path", ["linear", "trigonometric"])
def test_two_draws_measure_the_damping(path, t, reward):
    """The measured factor is that of the closed form, and the shift is unbiased with it."""
    problem, noisy, streams = states(gaussian(reward, path), 1, t, MetaFlowMap())
    many, streams = noisy.tile(2000), Streams(3, tuple(range(2000)))
    found = Damped().estimate(problem, many, streams=streams).shift
    by_hand = Damped(curvature=CURVATURES[reward], data_std=0.6)
    assert torch.allclose(found, by_hand.estimate(problem, many, streams=streams).shift, rtol=1e-6)
    wanted = Exact().estimate(problem, noisy, streams=streams.rows(slice(1))).shift[0]
    assert ((found.mean(0) - wanted).abs() <= 5 * found.std(0) / 2000**0.5 + 1e-9).all()


def test_draws_that_are_missing_or_alike_measure_nothing():
    shifts, x1 = torch.randn(3, 2, 4).double(), torch.randn(3, 2, 4).double()
    equal = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]).double()
    with_missing = measured_damping(shifts, x1, equal)
    assert torch.allclose(with_missing, measured_damping(shifts[:2], x1[:2], equal[:2]))
    same = x1[:1].expand(2, 2, 4)
    assert torch.equal(measured_damping(shifts[:2], same, equal[:2]), torch.zeros(2).double())


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
@pytest.mark.parametrize(("steps", "near"), [(8, 0.25), (32, 0.08)])
def test_steered_samples_reach_the_tilted_law_as_steps_grow(path, steps, near):
    world, rows = gaussian("along", path), 384
    exact = world[0].draw_tilted(world[1], Streams(1, tuple(range(4 * rows))))
    damped = Damped(draws=1, curvature=CURVATURES["along"], data_std=0.6)
    found = sampled(Steer(steps=steps), world, rows, sampler=DPS(), estimator=damped)
    assert sliced_w2(found, exact) < near


def test_a_curvature_that_cannot_be_measured_is_asked_for():
    with pytest.raises(ValueError, match="at least 2 where 'curvature' is left out"):
        Damped(draws=1)
    problem, noisy, streams = states(gaussian("round"), 2, 0.5, DPS())
    with pytest.raises(PartError, match="set 'curvature'"):
        Damped().estimate(problem, noisy, streams=streams)
