"""The multilayer perceptron: what it depends on, labels, precision."""

import pytest
import torch

from align.networks.mlp import MLP, MLPConfig


def _inputs(rows=5, dim=2):
    g = torch.Generator().manual_seed(0)
    y, x = torch.randn((2, rows, dim), generator=g)
    s, u, t = torch.rand((3, rows), generator=g)
    return {"y": y, "s": s, "u": u, "t": t, "x": x, "label": torch.arange(rows) % 4}


def _net(role, dim=2):
    torch.manual_seed(0)
    return MLP(MLPConfig(width=16, depth=2), (dim,), 3, role)


@pytest.mark.parametrize(
    ("role", "seen"), [("flow", "ys"), ("flow_map", "ysu"), ("meta_flow_map", "ysutx")]
)
def test_a_network_depends_on_what_its_role_sees_alone(role, seen):
    net, inputs = _net(role), _inputs()
    with torch.no_grad():
        base = net(*inputs.values())
        assert base.shape == (5, 2)
        for name, value in inputs.items():
            moved = (value + 1) % 4 if name == "label" else value + 0.3
            change = (net(*{**inputs, name: moved}.values()) - base).abs().amax(1)
            if name == "label" or name in seen:
                assert (change > 1e-4).all(), name
            else:
                assert not change.any(), name


def test_rows_are_independent():
    net, inputs = _net("meta_flow_map"), _inputs()
    with torch.no_grad():
        whole = net(*inputs.values())
        part = net(*(value[1:3] for value in inputs.values()))
    assert torch.allclose(whole[1:3], part, atol=1e-6)


def test_labels_have_a_row_for_no_class():
    net, inputs = _net("meta_flow_map"), _inputs(rows=1)
    net(*{**inputs, "label": torch.tensor([3])}.values())
    with pytest.raises(IndexError):
        net(*{**inputs, "label": torch.tensor([4])}.values())


# Torch's own forward-mode derivatives still load scripts.
def test_runs_in_double_precision_and_has_a_slope_in_time():
    net = _net("meta_flow_map").double()
    y, s, u, t, x, label = _inputs().values()
    y, s, u, t, x = (part.double() for part in (y, s, u, t, x))
    with torch.no_grad():
        _, slope = torch.func.jvp(
            lambda time: net(y, time, u, t, x, label), (s,), (torch.ones_like(s),)
        )
        ahead, behind = (net(y, s + h, u, t, x, label) for h in (1e-5, -1e-5))
    assert slope.dtype == torch.float64
    assert torch.allclose(slope, (ahead - behind) / 2e-5, atol=1e-8)
    assert float(slope.abs().max()) > 1e-3
