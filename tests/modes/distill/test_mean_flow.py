"""The mean-flow residual has the mean of the Eulerian one, without a velocity of a model."""

import pytest
import torch

from align.modes.distill.eulerian import Eulerian
from align.modes.distill.mean_flow import MeanFlow


def test_target_is_eulerian_with_the_data_s_rate(worlds):
    inner = worlds.inner()
    rate = worlds.model.path.rate(worlds.noise, worlds.x1, worlds.s)
    assert torch.equal(inner.rate(worlds.s), rate)
    expected = worlds.residual(Eulerian(), teacher=lambda y, s: rate)
    assert torch.equal(worlds.residual(MeanFlow()), expected)


def test_linear_in_the_rate_so_its_mean_is_the_eulerian_residual(world):
    """The identity of V8: with b̄ in place of the rate, the exact map has no residual."""
    y, s, u = world.inner().state(world.s), world.s, world.u

    def noisy(rate):
        return world.residual(Eulerian(), teacher=lambda y, s: rate)

    velocity = world.velocity(y, s)
    noise = torch.sin(torch.arange(64.0)).double()[:, None]
    mean = (noisy(velocity + noise) + noisy(velocity - noise)) / 2
    assert float(mean.abs().max()) < 1e-6
    assert float(noisy(velocity + noise).abs().max()) > 0.1
    assert (u > s).all()


def test_only_the_prediction_carries_a_gradient(world):
    gradient, none = world.gradients(MeanFlow())
    assert none is None
    expected = world.average(world.inner().state(world.s), world.s, world.u).sum()
    assert float(gradient) == pytest.approx(float(expected))
