"""How much rows count: adaptive weights, and a learnt level of the loss."""

import math

import pytest
import torch

from align.core.streams import Streams
from align.modes.distill.weighting import LogLossNet, Weighting

ALONE = torch.tensor([True, False, True, False])


def _losses(weighting, square, learnt=None):
    return weighting.losses(square, ALONE, torch.rand(4, 3), learnt)


def test_without_powers_a_row_s_loss_is_its_square():
    square = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert torch.equal(_losses(Weighting(), square), square)


def test_adaptive_weights_have_no_gradient():
    square = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    found = _losses(Weighting(diagonal=0.5, consistency=1.0, floor=0.3), square)
    weight = [(v + 0.3) ** -p for v, p in zip((1, 2, 3, 4), (0.5, 1, 0.5, 1), strict=True)]
    assert torch.allclose(found, torch.tensor(weight) * square)
    (slope,) = torch.autograd.grad(found.sum(), square)
    assert torch.allclose(slope, torch.tensor(weight))
    with pytest.raises(ValueError, match="'floor' must be greater than 0"):
        Weighting(floor=0.0)


def test_a_learnt_level_starts_silent_and_is_least_at_the_logarithm_of_the_loss():
    level = Streams(0, ()).initialise(LogLossNet)
    times, square = torch.rand(4, 3), torch.tensor([1.0, 2.0, 3.0, 4.0])
    weighting = Weighting(learned=True)
    assert torch.equal(weighting.losses(square, ALONE, times, level), square)
    optimiser = torch.optim.Adam(level.parameters(), 0.02)
    for _ in range(300):
        loss = weighting.losses(torch.full((4,), 5.0), ALONE, times, level).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert torch.allclose(level(times), torch.tensor(math.log(5.0)), atol=0.02)
    assert float(loss.detach()) == pytest.approx(1 + math.log(5.0), abs=1e-3)
