"""The value of a measurement under a Gaussian posterior, against matrices, draws and the truth."""

import pytest
import torch

from align.core.errors import PartError
from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.reward import Term, WeightedReward
from align.core.streams import Streams
from align.dynamics.sde import SDE
from align.estimators.exact import Exact
from align.estimators.gaussian import GaussianValue
from align.models.mixture import Mixture
from align.modes.sampling.steer import Steer
from align.samplers.gaussian import GaussianPosterior
from align.testing.distances import sliced_w2
from align.testing.probes import Constant
from align.testing.worlds import measured, plane, sampled

A, Y = ((1.2, -0.8), (0.3, 0.9), (0.5, 0.5)), (-1.0, 0.4, 2.0)


def blob(path="linear", std=0.6):
    spec = Mixture(weights=(1.0,), means=((0.5, -1.0),), stds=(std,), path=path)
    return spec.build(torch.device("cpu")), measured(A, Y, 0.3)


def states(world, rows, t):
    model, reward = world
    t = torch.full((rows,), float(t), dtype=torch.float64)
    x = Streams(2, tuple(range(rows))).normal(model.shape)
    cond = model.encode([""] * rows)
    return Problem(model, reward, None, None, cond), NoisyState(x, t, cond)


@pytest.mark.parametrize("t", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("path", ["linear", "trigonometric"])
def test_value_and_shift_of_gaussian_data_are_exact(path, t):
    problem, noisy = states(blob(path), 5, t)
    got = GaussianValue(data_std=0.6).estimate(problem, noisy, streams=Streams(0, tuple(range(5))))
    wanted = Exact().estimate(problem, noisy, streams=Streams(0, tuple(range(5))))
    for name in ("value", "shift", "reward", "denoiser"):
        assert torch.allclose(getattr(got, name), getattr(wanted, name), rtol=1e-9, atol=1e-9)


def test_value_agrees_with_the_formula_in_matrices():
    """V̂ and ∂V̂/∂D = Aᵀ S⁻¹ u on a mixture, where v is not the posterior's variance."""
    world = plane()[0], measured(A, Y, 0.3)
    problem, noisy = states(world, 4, 0.4)
    got = GaussianValue(data_std=2.0).estimate(problem, noisy, streams=Streams(0, (0, 1, 2, 3)))
    a, y = torch.tensor(A, dtype=torch.float64), torch.tensor(Y, dtype=torch.float64)
    v = 0.36 * 4 / (0.36 + 0.16 * 4)
    s = 0.09 * torch.eye(3).double() + v * a @ a.T
    for row in range(4):
        x = noisy.x[row : row + 1].clone().requires_grad_()
        denoiser = world[0].denoiser(NoisyState(x, noisy.t[:1], noisy.cond.rows(slice(1))))
        u = y - a @ denoiser[0]
        value = -0.5 * u @ torch.linalg.solve(s, u) - 0.5 * torch.logdet(s / 0.09)
        (pull,) = torch.autograd.grad(denoiser[0] @ (a.T @ torch.linalg.solve(s, u)).detach(), x)
        assert torch.allclose(got.value[row], value)
        assert torch.allclose(got.shift[row], 0.36 / 0.4 * pull[0])


def test_value_is_the_limit_of_many_gaussian_draws():
    problem, noisy = states((plane()[0], measured(A, Y, 2.0)), 3, 0.6)
    streams = Streams(1, (0, 1, 2))
    x1 = GaussianPosterior().sample(problem.model, noisy, draws=100_000, streams=streams)
    drawn = problem.reward_of(x1, noisy.cond).exp().mean(0).log()
    got = GaussianValue().estimate(problem, noisy, streams=streams)
    assert torch.allclose(got.value, drawn, atol=0.01)


def test_states_that_memory_is_too_small_for_are_fewer_at_once(monkeypatch):
    problem, noisy = states(blob(), 7, 0.4)
    streams = Streams(0, tuple(range(7)))
    whole, velocity = (
        GaussianValue().estimate(problem, noisy, streams=streams),
        problem.model.velocity,
    )

    def short(self, x, t, cond):
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return velocity(x, t, cond)

    monkeypatch.setattr(type(problem.model), "velocity", short)
    found = GaussianValue().estimate(problem, noisy, streams=streams)
    assert torch.allclose(found.shift, whole.shift, atol=1e-12)
    assert torch.allclose(found.value, whole.value, atol=1e-12)
    assert problem.chunks.rows == {"gradient of the value": 1}


def test_particles_correct_the_value_of_data_that_are_not_gaussian():
    """Three far modes: the posterior is no Gaussian, and guidance alone gives them wrong masses."""
    world, rows = plane(), 128
    exact = world[0].draw_tilted(world[1], Streams(1, tuple(range(rows))))
    alone, among = (
        sampled(
            Steer(
                steps=60,
                dynamics=SDE(),
                particles=count,
                resample="systematic" if count > 1 else "none",
            ),
            world,
            rows,
            estimator=GaussianValue(),
        )
        for count in (1, 32)
    )
    assert sliced_w2(among, exact) < 0.4
    assert sliced_w2(alone, exact) > 0.5


def test_unfit_rewards_and_models_are_refused_with_a_cure():
    world = blob()
    problem, noisy = states(world, 1, 0.5)
    streams = Streams(0, (0,))
    grows = WeightedReward((Term(name="up", reward=world[1].terms[0].reward, weight=-1.0),))
    with pytest.raises(PartError, match="outgrows the Gaussian"):
        GaussianValue().estimate(
            Problem(world[0], grows, cond=problem.cond), noisy, streams=streams
        )
    flat = WeightedReward((Term(name="flat", reward=Constant(0.5, 2)),))
    found = GaussianValue().estimate(
        Problem(world[0], flat, cond=problem.cond), noisy, streams=streams
    )
    assert torch.allclose(found.value, torch.tensor(0.5).double())
    assert torch.equal(found.shift, torch.zeros(1, 2).double())
