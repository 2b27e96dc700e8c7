"""The shortcut residual: jumps of powers of two, on their grid."""

import pytest
import torch

from align.modes.distill.shortcut import Shortcut


def test_the_exact_map_has_no_residual_but_that_of_the_last_level(worlds):
    """The shortest jumps are two Euler steps; a finer grid makes their error small."""
    sizes = []
    for levels in (3, 6, 9):
        found = worlds.residual(Shortcut(levels=levels)).abs()
        # Most rows are on higher levels, and there the exact map is consistent.
        assert float(found.median()) < 1e-9
        sizes.append(float(found.max()))
    assert sizes[0] > 1e-2
    assert sizes[2] < 0.1 * sizes[0]


@pytest.mark.parametrize("name", ["its velocity", "shifted"])
def test_a_wrong_map_has_one(world, wrong, name):
    found = world.residual(Shortcut(), average=wrong[name])
    assert float(found.square().mean().sqrt()) > 1e-2


def test_times_are_on_the_grid_and_halves_meet(world):
    calls = []

    def spy(y, s, u):
        calls.append((y, s, u))
        return y.sin() + (s + 2 * u)[:, None]

    found = Shortcut(levels=4).residual(world.inner(average=spy), world.s, world.u)
    (y, s, first_end), (middle, w, second_end), (_, start, u) = calls
    assert torch.equal(s, start)
    length = u - s
    assert set(length.tolist()) == {1.0, 0.5, 0.25, 0.125}
    assert torch.equal(s / length, (s / length).round())
    assert torch.equal(w, (s + u) / 2)
    assert float(u.max()) == 1.0
    # The last level asks for velocities, the others for jumps of half the length.
    last = length == 0.125
    assert torch.equal(first_end, torch.where(last, s, w))
    assert torch.equal(second_end, torch.where(last, w, u))
    one = y.sin() + (s + 2 * first_end)[:, None]
    assert torch.allclose(middle, y + length[:, None] / 2 * one)
    two = middle.sin() + (w + 2 * second_end)[:, None]
    assert torch.allclose(found, y.sin() + (s + 2 * u)[:, None] - (one + two) / 2)
    assert torch.allclose(y, world.inner().state(s))


def test_only_the_prediction_carries_a_gradient(world):
    gradient, none = world.gradients(Shortcut())
    assert none is None
    seen = []
    world.residual(Shortcut(), average=lambda *noisy: seen.append(noisy) or world.average(*noisy))
    assert float(gradient) == pytest.approx(float(world.average(*seen[-1]).sum()))
