"""The Eulerian residual vanishes on the exact map, and on no other."""

import pytest
import torch

from align.modes.distill.eulerian import Eulerian

BOTH = pytest.mark.parametrize("velocity", ["teacher", "self"])


@BOTH
def test_the_exact_map_has_no_residual(worlds, velocity):
    residual = worlds.residual(Eulerian(velocity=velocity))
    assert residual.shape == (64, 1)
    assert float(residual.abs().max()) < 1e-6


@BOTH
@pytest.mark.parametrize("name", ["its velocity", "shifted", "stretched"])
def test_a_wrong_map_has_one(world, wrong, velocity, name):
    residual = world.residual(Eulerian(velocity=velocity), average=wrong[name])
    assert float(residual.square().mean().sqrt()) > 1e-2


def test_the_velocity_comes_from_where_it_should(world):
    # The map of a flow that is twice too fast is consistent with itself, not with the teacher.
    def average(y, s, u):
        long = y * torch.expm1(2 * (u - s))[:, None] / (u - s).clamp(min=1e-6)[:, None]
        return torch.where((u > s)[:, None], long, 2 * y)

    def sized(velocity):
        consistency = Eulerian(velocity=velocity)
        found = world.residual(consistency, average=average, teacher=lambda y, s: y)
        return float(found.abs().max())

    assert sized("self") < 1e-9
    assert sized("teacher") > 0.1


def test_target_is_the_formula_s(world):
    def average(y, s, u):
        return y.sin() * (1 + s * u)[:, None] + s.square()[:, None]

    s, u = world.s, world.u
    y = world.inner().state(s)
    along = (3 * y).cos() + s[:, None]
    residual = world.residual(Eulerian(), average=average, teacher=lambda y, s: along)
    slope = y.sin() * u[:, None] + 2 * s[:, None]
    quadratic = y.cos() * (1 + s * u)[:, None] * along
    target = along + (u - s)[:, None] * (slope + quadratic)
    assert torch.allclose(residual, average(y, s, u) - target, atol=1e-12)


@BOTH
def test_only_the_prediction_carries_a_gradient(world, velocity):
    gradient, none = world.gradients(Eulerian(velocity=velocity))
    assert none is None
    expected = world.average(world.inner().state(world.s), world.s, world.u).sum()
    assert float(gradient) == pytest.approx(float(expected))
