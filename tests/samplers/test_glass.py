"""The inner drift against brute-force conditioning on both observations."""

import itertools

import pytest
import torch

from align.core.model import NoisyState
from align.core.streams import Streams
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.models.mixture import Mixture
from align.samplers.dps import DPS
from align.samplers.glass import Glass, glass_velocity
from align.samplers.mfm import MetaFlowMap
from align.testing.distances import w1
from align.testing.worlds import line, plane

PATHS = ("linear", "trigonometric")


def _inner(model, y, s, noisy):
    """E of the inner interpolant's rate: condition the mixture on x, then on y."""
    law = model.posterior(noisy).posterior(y, model.path.alpha(s), model.path.beta(s))
    return model.path.velocity_from_denoiser(law.mean(), y, s)


def _near(a, b, tolerance):
    assert float(((a - b).abs() / (1 + b.abs())).max()) <= tolerance


@pytest.mark.parametrize("kind", PATHS)
def test_inner_velocity_agrees_with_conditioning_on_both_states(kind):
    model, _ = line(kind)
    grid = torch.tensor([0, 1e-12, 1e-4, 0.1, 0.35, 0.5, 0.8, 0.95, 0.999], dtype=torch.float64)
    points = torch.linspace(-3, 3, 7, dtype=torch.float64)
    t, s, x, y = (v.flatten() for v in torch.meshgrid(grid, grid, points, points, indexing="ij"))
    noisy = NoisyState(x[:, None], t, model.encode([""] * len(t)))
    _near(glass_velocity(model, y[:, None], s, noisy), _inner(model, y[:, None], s, noisy), 1e-11)


@pytest.mark.parametrize("kind", PATHS)
def test_inner_velocity_in_single_precision_agrees_with_double(kind):
    model, _ = line(kind)
    t, s = torch.tensor([0.0, 1e-4, 0.3, 0.97]), torch.tensor([0.0, 1e-3, 0.5, 0.98])
    t, s = (v.flatten() for v in torch.meshgrid(t, s, indexing="ij"))
    x, y = torch.linspace(-2, 2, 16)[:, None], torch.linspace(1, -3, 16)[:, None]
    noisy = NoisyState(x, t, model.encode([""] * 16))
    exact = NoisyState(x.double(), t.double(), noisy.cond)
    _near(glass_velocity(model, y, s, noisy), _inner(model, y.double(), s.double(), exact), 2e-5)


@pytest.mark.parametrize("kind", PATHS)
def test_inner_velocity_at_its_limits_is_the_flows_and_the_denoisers(kind):
    model, _ = line(kind)
    y = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    cond = model.encode([""] * 9)
    zero, s = torch.zeros(9, dtype=torch.float64), torch.linspace(0, 0.9, 9, dtype=torch.float64)
    # A state at t = 0 says nothing: the inner flow is the flow itself.
    noisy = NoisyState(y.flip(0) ** 3, zero, cond)
    _near(glass_velocity(model, y, s, noisy), model.velocity(y, s, cond), 1e-13)
    # An inner state at s = 0 says nothing: towards the denoiser.
    noisy = NoisyState(y.flip(0), torch.full_like(zero, 0.4), cond)
    want = model.path.velocity_from_denoiser(model.denoiser(noisy), y, zero)
    _near(glass_velocity(model, y, zero, noisy), want, 1e-13)


def test_one_step_returns_the_denoiser():
    model, _ = plane()
    streams = Streams(0, (0, 1, 2))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    noisy = NoisyState(streams.fold_in("x").normal((2,)), t, model.encode([""] * 3))
    draws = Glass(steps=1).sample(model, noisy, draws=4, streams=streams)
    assert torch.allclose(draws, DPS().sample(model, noisy, draws=4, streams=streams))
    assert torch.allclose(draws[2], model.denoiser(noisy))


def test_inner_flow_converges_to_the_posterior():
    model, _ = line()
    count = 10_000
    noisy = NoisyState(
        torch.full((1, 1), 0.6, dtype=torch.float64),
        torch.tensor([0.35], dtype=torch.float64),
        model.encode([""]),
    )
    streams = Streams(0, (0,))
    exact = model.draw_posterior(noisy, count, streams).flatten()
    distance = [
        w1(Glass(steps=k).sample(model, noisy, draws=count, streams=streams).flatten(), exact)
        for k in (1, 4, 16, 64)
    ]
    # First order: about a quarter each time.
    for coarse, fine in itertools.pairwise(distance):
        assert fine < 0.4 * coarse
    assert distance[-1] < 0.04


def test_draws_differ_nest_and_carry_a_gradient():
    model, _ = line()
    streams = Streams(0, (0, 1, 2))
    x = torch.tensor([[0.1], [0.5], [-2.0]], dtype=torch.float64, requires_grad=True)
    noisy = NoisyState(x, torch.full((3,), 0.3, dtype=torch.float64), model.encode([""] * 3))
    four = Glass(steps=5).sample(model, noisy, draws=4, streams=streams)
    assert four.shape == (4, 3, 1)
    assert len(four.flatten().unique()) == 12
    assert torch.equal(four[:2], Glass(steps=5).sample(model, noisy, draws=2, streams=streams))
    (gradient,) = torch.autograd.grad(four.sum(), x)
    h = 1e-6
    up, down = (
        Glass(steps=5)
        .sample(model, NoisyState(x + d, noisy.t, noisy.cond), draws=4, streams=streams)
        .sum((0, 2))
        for d in (h, -h)
    )
    assert torch.allclose(gradient[:, 0], (up - down) / (2 * h), rtol=1e-5)


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("t", [0.0, 0.35, 0.9])
def test_inner_velocity_at_time_one_is_the_flows(kind, t):
    """At s = 1 the inner state is x1 itself, and x says no more."""
    model, _ = line(kind)
    y = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    one, cond = torch.ones(9, dtype=torch.float64), model.encode([""] * 9)
    noisy = NoisyState(y.flip(0) + 0.3, t * one, cond)
    found = glass_velocity(model, y, one, noisy)
    _near(found, model.velocity(y, one, cond), 1e-13)
    _near(found, glass_velocity(model, y, (1 - 1e-7) * one, noisy), 1e-4)


def _error(kind, t, **options):
    """Mean distance of 500 draws from where the exact flow map takes the same noise."""
    model, _ = line(kind)
    noisy = NoisyState(
        torch.full((1, 1), 0.6).double(), torch.tensor([t]).double(), model.encode([""])
    )
    streams = Streams(0, (0,))
    exact = MetaFlowMap().sample(model, noisy, draws=500, streams=streams)
    draws = Glass(**options).sample(model, noisy, draws=500, streams=streams)
    return float((draws - exact).abs().mean())


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("t", [0.0, 0.35, 0.7])
def test_order_of_both_methods(kind, t):
    euler, heun = (
        [_error(kind, t, steps=k, method=method) for k in (32, 64)] for method in ("euler", "heun")
    )
    assert 1.8 < euler[0] / euler[1] < 2.3
    assert 3.5 < heun[0] / heun[1] < 4.5
    assert heun[0] < 0.3 * euler[1]  # at as many calls


def test_heun_with_few_steps_is_never_far_off():
    """Late, the posterior is narrow: a corrector at s = 1 would be 7 times as wrong."""
    for steps in (1, 2, 3):
        assert _error("linear", 0.95, steps=steps, method="heun") < 0.05  # its deviation
    assert _error("linear", 0.5, steps=1, method="heun") == _error("linear", 0.5, steps=1)


def test_heun_calls_the_network_twice_a_step_but_the_last():
    model, _ = line()
    meter = Meter()
    noisy = NoisyState(
        torch.zeros(2, 1).double(), torch.full((2,), 0.3).double(), model.encode([""] * 2)
    )
    guarded = GuardedModel(model, "mixture", meter, 3)
    Glass(steps=4, method="heun").sample(guarded, noisy, draws=5, streams=Streams(0, (0, 1)))
    assert meter.calls == {"network": 5 * 2 * 7}


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_posterior_that_is_a_point_is_found_in_any_number_of_steps(kind, method, steps):
    spec = Mixture(weights=(1.0,), means=((0.7, -1.2),), stds=(1e-6,), path=kind)
    model, streams = spec.build(torch.device("cpu")), Streams(0, (0, 1, 2))
    noisy = NoisyState(
        streams.normal((2,)), torch.tensor([0.0, 0.4, 0.9]).double(), model.encode([""] * 3)
    )
    draws = Glass(steps=steps, method=method).sample(model, noisy, draws=2, streams=streams)
    assert torch.allclose(draws, torch.tensor([0.7, -1.2]).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_one_step_is_the_denoiser_on_either_path(kind):
    model, _ = line(kind)
    streams = Streams(0, (0, 1, 2))
    t = torch.tensor([0.1, 0.5, 0.9]).double()
    noisy = NoisyState(streams.normal((1,)), t, model.encode([""] * 3))
    (draw,) = Glass(steps=1).sample(model, noisy, draws=1, streams=streams)
    assert torch.allclose(draw, model.denoiser(noisy), rtol=0, atol=1e-12)
