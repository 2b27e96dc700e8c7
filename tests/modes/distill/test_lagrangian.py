"""The Lagrangian residual vanishes on the exact map; which side is trained is an option."""

import pytest
import torch

from align.modes.distill.lagrangian import Lagrangian

ALL = pytest.mark.parametrize(
    "loss",
    [Lagrangian(), Lagrangian(velocity="teacher"), Lagrangian(trained="velocity")],
    ids=["self", "teacher", "velocity trained"],
)


@ALL
def test_the_exact_map_has_no_residual(worlds, loss):
    residual = worlds.residual(loss)
    assert residual.shape == (64, 1)
    assert float(residual.abs().max()) < 1e-6


@ALL
@pytest.mark.parametrize("name", ["its velocity", "shifted", "stretched"])
def test_a_wrong_map_has_one(world, wrong, loss, name):
    residual = world.residual(loss, average=wrong[name])
    assert float(residual.square().mean().sqrt()) > 1e-2


def _map(y, s, u):
    return y.sin() * (1 + s * u.square())[:, None]


def test_derivative_is_the_formula_s(world):
    y, s, u = world.inner().state(world.s), world.s, world.u
    found = world.residual(Lagrangian(velocity="teacher"), average=_map, teacher=lambda y, s: 3 * y)
    length = (u - s)[:, None]
    end = y + length * _map(y, s, u)
    moves = _map(y, s, u) + length * y.sin() * (2 * s * u)[:, None]
    assert torch.allclose(found, moves - 3 * end, atol=1e-12)
    itself = world.residual(Lagrangian(), average=_map)
    assert torch.allclose(itself, moves - _map(end, u, u), atol=1e-12)


def test_the_side_that_is_trained_carries_the_gradient(world):
    """Against gradients of the formula, with everything else held fixed."""
    y, s, u = world.inner().state(world.s), world.s, world.u
    length = (u - s)[:, None]

    def gradient(loss):
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        found = world.residual(loss, average=lambda y, s, u: scale * _map(y, s, u))
        return float(torch.autograd.grad(found.sum(), scale)[0])

    moves = _map(y, s, u) + length * y.sin() * (2 * s * u)[:, None]
    assert gradient(Lagrangian()) == pytest.approx(float(moves.sum()))
    # −d/dk of k f(y + (u − s) k f(y)) at k = 1, through both places.
    f = _map(y, s, u)
    end = y + length * f
    slope = end.cos() * (1 + u**3)[:, None]
    expected = -(_map(end, u, u) + slope * length * f).sum()
    assert gradient(Lagrangian(trained="velocity")) == pytest.approx(float(expected))


def test_the_teacher_is_not_trained(world):
    _, none = world.gradients(Lagrangian(velocity="teacher"))
    assert none is None
    with pytest.raises(ValueError, match="teacher's velocity cannot be trained"):
        Lagrangian(velocity="teacher", trained="velocity")
