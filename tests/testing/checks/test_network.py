"""Each check of a network catches a network that breaks it, and no other check does."""

import unittest
from itertools import count
from typing import ClassVar

import attrs
import pytest
import torch
from torch import nn

from align.core.network import ConditionedNetworkSpec, VelocityNetwork
from align.core.option import option
from align.testing.checks import network as checks

BUILT = count()  # a number that no two networks share


@attrs.frozen(kw_only=True)
class Layer(ConditionedNetworkSpec):
    """One hidden layer, spoilt by `fault`."""

    kind: ClassVar[str] = "layer"
    domain: ClassVar[str] = "vector"

    fault: str = option("what is wrong", default="")

    def build(self, shape, classes, role, features=0):
        if self.fault == "another role":
            return LayerNetwork(self, shape, classes, "flow", features)
        return LayerNetwork(self, shape, classes, role, features)


class LayerNetwork(VelocityNetwork):
    """Reads y, s, u, t and x side by side, with zeros for what its role ignores."""

    def __init__(self, config, shape, classes, role, features=0):
        super().__init__(config, shape, classes, role, features)
        (size,) = shape
        self.enter = nn.Linear({"flow": 1, "flow_map": 2}.get(role, 3 + size) + size, 8)
        self.label = nn.Embedding(classes + 1, 8)
        self.leave = nn.Linear(8, size)
        if features:
            self.condition = nn.Linear(features, 8, bias=False)
        if config.fault == "idle weights":
            self.idle = nn.Linear(2, 2)
        if config.fault == "unseeded":
            with torch.no_grad():
                self.leave.bias.fill_(next(BUILT))
        if config.fault == "hidden weights":
            self.scale = torch.rand(1, 1)

    def forward(self, y, s, u, t, x, label, features=None):
        if self.config.fault == "changes its input" and self.role == "flow":
            x.add_(1)
        inputs = [y, s[:, None]]
        inputs += [u[:, None]] if self.role != "flow" else []
        inputs += [t[:, None], x] if self.role == "meta_flow_map" else []
        embedded = self.label(label)
        if self.features and self.config.fault != "deaf to features":
            embedded = embedded + self.condition(features)
        hidden = torch.tanh(self.enter(torch.cat(inputs, 1)) + embedded)
        out = self.leave(hidden)
        return {
            "another batch": lambda: out + 0.1 * out.sum(0),
            "single": lambda: out.float(),
            "sees the end": lambda: out + u[:, None],
            "hidden weights": lambda: out + self.scale,
            "no derivative": lambda: out + y.detach(),
            "global": lambda: out + 0 * torch.rand(()),
        }.get(self.config.fault, lambda: out)()

    def weights_for(self, larger):
        enter = torch.zeros_like(larger.enter.weight)
        if self.config.fault == "grows at random":
            enter += 0.1
        enter[:, : self.enter.in_features] = self.enter.weight.detach()
        state = dict(self.state_dict()) | {"enter.weight": enter}
        if self.config.fault == "grows deaf":
            larger.enter.register_forward_pre_hook(
                lambda _, args: (torch.cat((args[0][:, :4], torch.zeros_like(args[0][:, 4:])), 1),)
            )
        return state


def failed(part):
    """Names of the checks that a network fails."""
    names = set()
    for check in checks.CHECKS:
        try:
            check(checks.subject(part, None))
        except Exception:
            names.add(check.__name__)
    return names


FAULTS = [
    ("", set()),
    ("another role", {"described", "grown_networks_learn", "role"}),
    ("another batch", {"rows_are_independent"}),
    ("single", {"shape", "forward_mode"}),
    ("hidden weights", {"state_dict", "copied_networks", "grown_networks"}),
    ("sees the end", {"role"}),
    ("deaf to features", {"conditions"}),
    ("idle weights", {"gradient"}),
    ("no derivative", {"forward_mode"}),
    ("changes its input", {"inputs_untouched"}),
    ("global", {"weights_are_seeded"}),
    ("unseeded", {"weights_are_seeded"}),
    ("grows at random", {"grown_networks"}),
    ("grows deaf", {"grown_networks_learn"}),
]


@pytest.mark.parametrize(("fault", "expected"), FAULTS)
def test_a_broken_network_fails_the_check_of_its_fault(fault, expected):
    assert failed(Layer(fault=fault)) == expected


@attrs.frozen(kw_only=True)
class Opaque(Layer):
    """Has an option that is no plain value."""

    kind: ClassVar[str] = "opaque"

    units: object = option("units", default=(4,))


def test_options_that_json_changes_fail_their_check():
    assert failed(Opaque()) == {"options_are_plain"}


def test_every_check_is_seen_to_fail():
    seen = set().union(*(expected for _, expected in FAULTS)) | {"options_are_plain", "form"}
    assert {check.__name__ for check in checks.CHECKS} == seen


def test_a_network_that_does_not_grow_is_not_tried_at_it(monkeypatch):
    monkeypatch.setattr(LayerNetwork, "weights_for", VelocityNetwork.weights_for)
    trial = checks.subject(Layer(), None)
    for check in (checks.grown_networks, checks.grown_networks_learn):
        with pytest.raises(unittest.SkipTest, match="a 'layer' cannot be grown from a flow to a"):
            check(trial)
