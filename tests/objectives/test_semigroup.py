"""The semigroup residual vanishes on the exact map, and on no other."""

import pytest
import torch

from align.core.model import At
from align.core.streams import Streams
from align.objectives.semigroup import Semigroup
from align.samplers.glass import glass_velocity
from align.testing.worlds import line

ROWS = 64


def _world(kind="linear"):
    """The exact average velocity, the inner one, and states along the inner flow."""
    model, _ = line(kind)
    streams = Streams(0, tuple(range(ROWS)))
    x1, t = model.draw(streams), 0.9 * streams.at("t").uniform(())
    cond = model.encode([""] * ROWS)
    at = At(model.path.interpolate(streams.at("context").normal((1,)), x1, t), t, cond)
    times = (0.02 + 0.95 * streams.at("times").uniform((2,))).sort(1).values
    s, u = times.T
    y = model.path.interpolate(streams.at("inner").normal((1,)), x1, s)

    def exact(y, s, u):
        return (model.posterior_jump(y, s, u, at) - y) / (u - s)[:, None]

    def inner(y, s):
        return glass_velocity(model, y, s, at)

    return exact, inner, y, s, u, streams


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_the_exact_map_has_no_residual(kind):
    exact, inner, y, s, u, streams = _world(kind)
    residual = Semigroup().residual(exact, inner, y, s, u, streams)
    assert residual.shape == (ROWS, 1)
    assert float((residual * (u - s)[:, None]).abs().max()) < 1e-9


def test_a_wrong_map_has_one():
    exact, inner, y, s, u, streams = _world()
    for wrong in (
        lambda y, s, u: inner(y, s),
        lambda y, s, u: 1.1 * exact(y, s, u),
        lambda y, s, u: exact(y, s, u) + 0.1 * (u - s)[:, None],
    ):
        residual = Semigroup().residual(wrong, inner, y, s, u, streams)
        assert float(residual.square().mean().sqrt()) > 1e-2


def test_two_jumps_meet_at_a_time_of_each_row_s_own():
    _, inner, y, s, u, streams = _world()
    calls = []

    def spy(y, s, u):
        calls.append((y, s, u))
        return y.sin() + (s + 2 * u)[:, None]

    residual = Semigroup().residual(spy, inner, y, s, u, streams)
    assert len(calls) == 3
    w = calls[0][2]
    part = (w - s) / (u - s)
    assert ((part > 0) & (part < 1)).all()
    assert part.unique().numel() == ROWS
    assert 0.2 < float(part.std()) < 0.4
    first = y.sin() + (s + 2 * w)[:, None]
    second = (y + (w - s)[:, None] * first).sin() + (w + 2 * u)[:, None]
    target = part[:, None] * first + (1 - part)[:, None] * second
    assert torch.allclose(residual, y.sin() + (s + 2 * u)[:, None] - target)


def test_a_row_is_the_same_in_any_batch():
    def average(y, s, u):
        return y.sin() + (s + 2 * u)[:, None]

    _, inner, y, s, u, streams = _world()
    whole = Semigroup().residual(average, inner, y, s, u, streams)
    few = slice(9, 12)
    part = Semigroup().residual(average, inner, y[few], s[few], u[few], streams.rows(few))
    assert torch.equal(part, whole[few])


def test_only_the_prediction_carries_a_gradient():
    exact, inner, y, s, u, streams = _world()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    residual = Semigroup().residual(lambda y, s, u: scale * exact(y, s, u), inner, y, s, u, streams)
    (gradient,) = torch.autograd.grad(residual.sum(), scale)
    expected = exact(y, s, u).sum()
    assert float(gradient) == pytest.approx(float(expected))
