"""The posterior map: its laws, its derivatives, and its being a flow map."""

import pytest
import torch

from align.core.model import NoisyState
from align.core.streams import Streams
from align.models.mixture import Mixture
from align.samplers.glass import glass_velocity
from align.testing.distances import sliced_w2, w1
from align.testing.worlds import line, plane

PATHS = ("linear", "trigonometric")


def _at(model, x, t):
    count = len(x)
    return NoisyState(
        x, torch.full((count,), float(t), dtype=torch.float64), model.encode([""] * count)
    )


def _time(value, like):
    return torch.full((len(like),), float(value), dtype=torch.float64)


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("t", [0.0, 0.35, 0.8])
def test_draws_follow_the_posterior(kind, t):
    model, _ = line(kind)
    count = 20_000
    noisy = _at(model, torch.full((count, 1), 0.6, dtype=torch.float64), t)
    noise = Streams(0, tuple(range(count))).normal((1,))
    mapped = model.posterior_jump(noise, _time(0, noise), _time(1, noise), noisy)
    exact = model.draw_posterior(noisy, 1, Streams(1, tuple(range(count))))[0]
    assert w1(mapped[:, 0], exact[:, 0]) < 0.03


@pytest.mark.parametrize("diagonal", [True, False])
def test_draws_follow_the_posterior_in_the_plane(diagonal):
    model, _ = plane(diagonal=diagonal)
    count = 20_000
    noisy = _at(model, torch.tensor([[0.4, 0.1]], dtype=torch.float64).expand(count, 2), 0.3)
    noise = Streams(0, tuple(range(count))).normal((2,))
    mapped = model.posterior_jump(noise, _time(0, noise), _time(1, noise), noisy)
    exact = model.draw_posterior(noisy, 1, Streams(1, tuple(range(count))))[0]
    assert sliced_w2(mapped, exact) < 0.1
    assert torch.allclose(torch.cov(mapped.T), torch.cov(exact.T), atol=0.15)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.99])
def test_jumps_compose_and_reverse(t):
    model, _ = plane()
    streams = Streams(0, tuple(range(500)))
    noisy = _at(model, streams.fold_in("x").normal((2,)), t)
    y = streams.normal((2,))
    zero, mid, one = (_time(v, y) for v in (0, 0.4, 1))
    whole = model.posterior_jump(y, zero, one, noisy)
    halves = model.posterior_jump(model.posterior_jump(y, zero, mid, noisy), mid, one, noisy)
    assert torch.allclose(whole, halves, atol=1e-9)
    assert torch.allclose(model.posterior_jump(whole, one, zero, noisy), y, atol=1e-9)
    assert torch.allclose(model.posterior_jump(y, mid, mid, noisy), y, atol=1e-12)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_jacobians_by_finite_differences(t):
    model, _ = plane(diagonal=False)
    streams = Streams(3, tuple(range(40)))
    noisy = _at(model, 1.5 * streams.fold_in("x").normal((2,)), t)
    y = streams.normal((2,))
    s, u, h = _time(0.1, y), _time(1, y), 1e-6

    def mapped(x, y):
        return model.posterior_jump(y, s, u, NoisyState(x, noisy.t, noisy.cond))

    for d in range(2):
        x, z = noisy.x.clone().requires_grad_(), y.clone().requires_grad_()
        by_x, by_y = torch.autograd.grad(mapped(x, z)[:, d].sum(), (x, z))
        for e in range(2):
            step = h * torch.eye(2, dtype=torch.float64)[e]
            slope = (mapped(noisy.x + step, y) - mapped(noisy.x - step, y))[:, d] / (2 * h)
            assert torch.allclose(by_x[:, e], slope, rtol=1e-4, atol=1e-5)
            slope = (mapped(noisy.x, y + step) - mapped(noisy.x, y - step))[:, d] / (2 * h)
            assert torch.allclose(by_y[:, e], slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", PATHS)
def test_on_the_line_it_is_the_flow_map_of_the_inner_flow(kind):
    model, _ = line(kind)
    y = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    noisy = _at(model, torch.full_like(y, 0.4), 0.35)
    s, h = _time(0.15, y), 1e-5
    for end in (0.3, 0.6, 0.9):
        u = _time(end, y)
        there = model.posterior_jump(y, s, u, noisy)
        ahead, behind = (model.posterior_jump(y, s, u + d, noisy) for d in (h, -h))
        # Lagrangian identity: the end of a jump moves with the inner velocity there.
        assert torch.allclose(
            (ahead - behind) / (2 * h), glass_velocity(model, there, u, noisy), atol=1e-6
        )


def test_rows_do_not_see_each_other():
    model, _ = plane()
    streams = Streams(0, tuple(range(64)))
    noisy, y = _at(model, streams.fold_in("x").normal((2,)), 0.4), streams.normal((2,))
    many = model.posterior_jump(y, _time(0, y), _time(1, y), noisy)
    for row in (0, 5, 63):
        rows = slice(row, row + 1)
        one = model.posterior_jump(y[rows], _time(0, y)[rows], _time(1, y)[rows], noisy.rows(rows))
        assert torch.allclose(one, many[rows], atol=1e-12)


@pytest.mark.parametrize("deviations", [(0.5, 0.5, 0.5), (0.5, 0.4, 0.6)])
def test_coordinates_that_components_agree_about_go_like_the_others(deviations):
    """What a tiny difference of the means sends through the search for roots."""
    apart = ((-1.0, 0.3, 0.0), (0.5, 0.3, 2.0), (1.5, 0.3, -1.0))
    nearly = tuple((a, b + 1e-9 * k, c) for k, (a, b, c) in enumerate(apart))
    streams, found = Streams(0, tuple(range(200))), []
    for means in (apart, nearly):
        model = Mixture(weights=(1, 2, 1), means=means, stds=deviations)
        model = model.build(torch.device("cpu"))
        x = streams.fold_in("x").normal((3,)).double().requires_grad_()
        noisy, y = _at(model, x, 0.4), streams.normal((3,)).double()
        ends = model.posterior_jump(y, _time(0.2, y), _time(1, y), noisy)
        found.append((ends, torch.autograd.grad(ends.square().sum(), x)[0]))
    for same, searched in zip(*found, strict=True):
        assert torch.allclose(same, searched, atol=1e-6)
