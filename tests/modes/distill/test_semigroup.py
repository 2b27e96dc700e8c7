"""The semigroup residual vanishes on the exact map, and on no other."""

import pytest
import torch

from align.modes.distill.semigroup import Semigroup


def test_the_exact_map_has_no_residual(worlds):
    residual = worlds.residual(Semigroup())
    assert residual.shape == (64, 1)
    assert float((residual * (worlds.u - worlds.s)[:, None]).abs().max()) < 1e-9


@pytest.mark.parametrize("name", ["its velocity", "shifted", "stretched"])
def test_a_wrong_map_has_one(world, wrong, name):
    assert float(world.residual(Semigroup(), average=wrong[name]).square().mean().sqrt()) > 3e-3


def _map(y, s, u):
    return y.sin() + (s + 2 * u)[:, None]


def test_two_jumps_meet_at_a_time_of_each_row_s_own(world):
    calls = []

    def spy(*noisy):
        calls.append(noisy)
        return _map(*noisy)

    residual = world.residual(Semigroup(), average=spy)
    assert len(calls) == 3
    (y, s, w), u = calls[0], world.u
    part = (w - s) / (u - s)
    assert ((part > 0) & (part < 1)).all()
    assert part.unique().numel() == 64
    assert 0.2 < float(part.std()) < 0.4
    first = _map(y, s, w)
    second = _map(y + (w - s)[:, None] * first, w, u)
    target = part[:, None] * first + (1 - part)[:, None] * second
    assert torch.allclose(residual, _map(y, s, u) - target)


def test_only_the_prediction_carries_a_gradient(world):
    gradient, none = world.gradients(Semigroup())
    assert none is None
    expected = world.average(world.inner().state(world.s), world.s, world.u).sum()
    assert float(gradient) == pytest.approx(float(expected))
