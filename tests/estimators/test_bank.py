"""Values from a bank of samples, against sums by hand, closed forms and the tilted law."""

import pytest
import torch

from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.streams import Streams
from align.estimators.bank import Bank
from align.estimators.exact import Exact
from align.models.mixture import GaussianMixture
from align.modes.sampling.steer import Steer
from align.testing.distances import sliced_w2
from align.testing.probes import Plain
from align.testing.worlds import line, plane, sampled


def states(world, rows, t):
    model, reward = world
    streams = Streams(2, tuple(range(rows)))
    t = torch.full((rows,), float(t), dtype=torch.float64)
    x = model.path.interpolate(streams.fold_in("x").normal(model.shape), model.draw(streams), t)
    cond = model.encode([""] * rows)
    return Problem(model, reward, None, None, cond), NoisyState(x, t, cond), streams


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
def test_shift_is_the_gradient_of_the_value_over_the_bank(path):
    """V̂ and ∇V̂ by hand from the densities N(x; β x1, α²)."""
    problem, noisy, streams = states(line(path), 5, 0.4)
    x1 = problem.model.draw(Streams(2, tuple(range(7)), ("bank",)))
    rewards = problem.reward_of(x1[None], problem.model.encode([""] * 7))[0]
    alpha, beta = problem.model.path.alpha(noisy.t), problem.model.path.beta(noisy.t)
    x = noisy.x[:, 0].clone().requires_grad_()
    density = torch.exp(-(x - beta * x1).square() / (2 * alpha**2))
    value = ((density * rewards.exp()[:, None]).sum(0) / density.sum(0)).log()
    (slope,) = torch.autograd.grad(value.sum(), x)
    found = Bank(size=7).estimate(problem, noisy, streams=streams)
    assert torch.allclose(found.value, value.detach())
    assert torch.allclose(found.shift[:, 0], alpha**2 / beta * slope)


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
@pytest.mark.parametrize("t", [0.0, 0.2, 0.6])
def test_value_and_shift_of_a_large_bank_are_exact(path, t):
    problem, noisy, streams = states(line(path), 8, t)
    found = Bank(size=20_000).estimate(problem, noisy, streams=streams)
    wanted = Exact().estimate(problem, noisy, streams=streams)
    assert ((found.value - wanted.value).abs() < 5 * found.error).all()
    if t:
        assert (found.shift - wanted.shift).norm() < 0.05 * wanted.shift.norm()


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
@pytest.mark.parametrize(("steps", "near"), [(6, 0.3), (16, 0.15)])
def test_steered_samples_reach_the_tilted_law_as_steps_grow(path, steps, near):
    world, rows = line(path), 192
    exact = world[0].draw_tilted(world[1], Streams(1, tuple(range(4 * rows))))
    found = sampled(Steer(steps=steps), world, rows, estimator=Bank(size=500))
    assert sliced_w2(found, exact) < near


def test_network_is_called_for_the_bank_alone(monkeypatch):
    world = plane()
    problem, noisy, streams = states(world, 3, 0.3)
    calls, velocity = [], GaussianMixture.velocity

    def counted(self, x, t, cond):
        calls.append(len(x))
        return velocity(self, x, t, cond)

    monkeypatch.setattr(GaussianMixture, "velocity", counted)
    problem = Problem(Plain(world[0]), world[1], None, None, problem.cond)
    bank = Bank(size=6, flow_steps=4)
    first = bank.estimate(problem, noisy, streams=streams)
    again = bank.estimate(problem, noisy, streams=streams.fold_in("later"))
    assert calls == [6] * 4
    assert torch.equal(first.shift, again.shift)
    assert first.denoiser is None
