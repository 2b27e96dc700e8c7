"""Derivatives of transformers along a direction, in both precisions."""

import pytest
import torch

from align.modes.distill.forward import derivative
from align.networks.dit import DiT, DiTConfig


@pytest.fixture(scope="module")
def net():
    config = DiTConfig(width=32, depth=2, heads=2, patch=1, encoder_depth=1)
    net = DiT(config, (2, 4, 4), 3, "flow_map").requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in net.parameters():
        weight.normal_(0, 0.2, generator=generator)
    return net


def along(net, precision):
    y, tangent = torch.randn((2, 3, 2, 4, 4), generator=torch.Generator().manual_seed(1))
    s, u = torch.tensor([0.1, 0.4, 0.7]), torch.tensor([0.5, 0.6, 0.9])
    label = torch.tensor([0, 1, 3])

    def function(y, s):
        return net(y, s, u, s, y, label).to(y.dtype)

    found = derivative(function, (y, s), (tangent, torch.ones_like(s)), precision)
    return function, (y, s), (tangent, torch.ones_like(s)), found


def test_derivative_is_that_of_differences(net):
    function, (y, s), (tangent, one), (value, slope) = along(net, "float32")
    assert torch.allclose(value, function(y, s), atol=1e-6)
    h = 1e-2
    forward, backward = (function(y + k * h * tangent, s + k * h * one) for k in (1, -1))
    assert float(slope.norm()) > 1
    error = (forward - backward) / (2 * h) - slope
    assert float(error.norm() / slope.norm()) < 0.01


def test_half_precision_is_near_and_no_surrounding_autocast_counts(net):
    *_, (value, slope) = along(net, "float32")
    with torch.autocast("cpu", torch.bfloat16):
        *_, (again, the_same) = along(net, "float32")
    assert torch.equal(again, value)
    assert torch.equal(the_same, slope)
    *_, (rounded, rough) = along(net, "bfloat16")
    assert rounded.dtype == rough.dtype == torch.float32
    for half, whole in ((rounded, value), (rough, slope)):
        assert 1e-4 < float((half - whole).norm() / whole.norm()) < 0.05
