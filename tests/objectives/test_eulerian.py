"""The Eulerian residual vanishes on the exact map, and on no other."""

import pytest
import torch

from align.core.model import At
from align.core.streams import Streams
from align.objectives.eulerian import Eulerian
from align.samplers.glass import glass_velocity
from align.testing.worlds import line

ROWS = 64

# Torch's own forward-mode derivatives still load scripts.


def _world(kind="linear"):
    """The exact average velocity, the inner one, and states along the inner flow."""
    model, _ = line(kind)
    streams = Streams(0, tuple(range(ROWS)))
    x1, t = model.draw(streams), 0.9 * streams.at("t").uniform(())
    cond = model.encode([""] * ROWS)
    at = At(model.path.interpolate(streams.at("context").normal((1,)), x1, t), t, cond)
    s = 0.05 + 0.6 * streams.at("s").uniform(())
    u = s + 0.05 + (0.9 - s) * streams.at("u").uniform(())
    y = model.path.interpolate(streams.at("inner").normal((1,)), x1, s)

    def inner(y, s):
        return glass_velocity(model, y, s, at)

    def exact(y, s, u):
        gap = (u - s)[:, None]
        jump = (model.posterior_jump(y, s, u, at) - y) / torch.where(gap > 0, gap, 1.0)
        return torch.where(gap > 0, jump, inner(y, s))

    return exact, inner, y, s, u, streams


@pytest.mark.parametrize("velocity", ["teacher", "self"])
@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_the_exact_map_has_no_residual(kind, velocity):
    exact, inner, y, s, u, streams = _world(kind)
    residual = Eulerian(velocity=velocity).residual(exact, inner, y, s, u, streams)
    assert residual.shape == (ROWS, 1)
    assert float(residual.abs().max()) < 1e-6


@pytest.mark.parametrize("velocity", ["teacher", "self"])
def test_a_wrong_map_has_one(velocity):
    exact, inner, y, s, u, streams = _world()
    for wrong in (
        lambda y, s, u: inner(y, s),
        lambda y, s, u: exact(y, s, u) + 0.1 * (u - s)[:, None],
        lambda y, s, u: exact(y, s, u) * (1 + 0.1 * (u - s))[:, None],
    ):
        residual = Eulerian(velocity=velocity).residual(wrong, inner, y, s, u, streams)
        assert float(residual.square().mean().sqrt()) > 1e-2


def test_the_velocity_comes_from_where_it_should():
    # The map of a flow that is twice too fast is consistent with itself, not with the teacher.
    _, _, y, s, u, streams = _world()

    def average(y, s, u):
        return y * torch.expm1(2 * (u - s))[:, None] / (u - s).clamp(min=1e-6)[:, None]

    def alone(y, s, u):
        return torch.where((u > s)[:, None], average(y, s, u), 2 * y)

    def sized(velocity):
        found = Eulerian(velocity=velocity).residual(alone, lambda y, s: y, y, s, u, streams)
        return float(found.abs().max())

    assert sized("self") < 1e-9
    assert sized("teacher") > 0.1


def test_target_is_the_formula_s():
    _, _, y, s, u, streams = _world()

    def average(y, s, u):
        return y.sin() * (1 + s * u)[:, None] + s.square()[:, None]

    along = (3 * y).cos() + s[:, None]
    residual = Eulerian().residual(average, lambda y, s: along, y, s, u, streams)
    slope = y.sin() * u[:, None] + 2 * s[:, None]
    bend = y.cos() * (1 + s * u)[:, None] * along
    target = along + (u - s)[:, None] * (slope + bend)
    assert torch.allclose(residual, average(y, s, u) - target, atol=1e-12)


@pytest.mark.parametrize("velocity", ["teacher", "self"])
def test_only_the_prediction_carries_a_gradient(velocity):
    exact, inner, y, s, u, streams = _world()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    pull = torch.ones((), dtype=torch.float64, requires_grad=True)
    residual = Eulerian(velocity=velocity).residual(
        lambda y, s, u: scale * exact(y, s, u), lambda y, s: pull * inner(y, s), y, s, u, streams
    )
    gradient, none = torch.autograd.grad(residual.sum(), (scale, pull), allow_unused=True)
    assert none is None
    assert float(gradient) == pytest.approx(float(exact(y, s, u).sum()))
