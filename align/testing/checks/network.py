"""Checks of networks of velocities."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias, TypeVar, final
from unittest import SkipTest

import attrs
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from align.catalog.registry import Entry, Origin, load_catalog
from align.core.errors import PartError
from align.core.network import (
    LADDER,
    ConditionedNetworkSpec,
    NetworkSpec,
    Role,
    VelocityNetwork,
    grown,
    make_network,
)
from align.core.streams import Streams
from align.models.about import spec_in, spec_table
from align.testing.checks.form import form
from align.testing.probes import close, finite
from align.testing.probes import untouched as unmoved

CLASSES: Final = 3
ROWS: Final = 5
FEATURES: Final = 4
SEEN: Final[Mapping[Role, tuple[str, ...]]] = {
    "flow": ("y", "s", "label"),
    "flow_map": ("y", "s", "u", "label"),
    "meta_flow_map": ("y", "s", "u", "t", "x", "label"),
}
"""The arguments that a network of each role depends on."""

Inputs: TypeAlias = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)


@final
@attrs.frozen(eq=False)
class Trial:
    """An architecture, and the shape of the states that its networks are tried on."""

    part: NetworkSpec
    shape: tuple[int, ...]

    def untrained(self, role: Role, seed: int = 0, features: int = 0) -> VelocityNetwork:
        """A network as training begins with it."""
        return Streams(seed, ()).initialise(
            lambda: make_network(self.part, self.shape, CLASSES, role, features)
        )

    def network(self, role: Role, seed: int = 0, features: int = 0) -> VelocityNetwork:
        """A network whose weights are all random, since those of a new one may be zero."""
        return randomised(self.untrained(role, seed, features), seed)

    def inputs(self, rows: int = ROWS) -> Inputs:
        """States, times, contexts and labels; the last label of three rows or more is no class."""
        streams = Streams(1, tuple(range(rows)))
        y, x = streams.normal(self.shape, draws=2).float()
        s, u, t = streams.uniform((3,)).float().T
        label = torch.arange(rows) % (CLASSES + 1)
        return {"y": y, "s": s, "u": u, "t": t, "x": x, "label": label}


def subject(part: NetworkSpec, on: Callable[[], tuple[int, ...]] | None) -> Trial:
    """The architecture, for states of the shape that `on` makes; by default a small one."""
    shape = on() if on else {"image": (4, 8, 8), "vector": (2,), None: (2,)}[part.domain]
    return Trial(part, shape)


def randomised(module: Module, seed: int = 0) -> Module:
    """The module with every parameter drawn anew, small enough for any depth."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            noise = Streams(seed, (0,)).fold_in("parameter", number).normal(tuple(parameter.shape))
            parameter.copy_(0.2 * noise[0])
    return module.eval().requires_grad_(False)


def described(trial: Trial) -> None:
    """A network says its options, the shape of its states, its classes and its role."""
    for role in LADDER:
        net = trial.untrained(role)
        assert isinstance(net, VelocityNetwork), f"build makes a {type(net).__name__}"
        assert net.config == trial.part, "its `config` is not the part that built it"
        found = (net.shape, net.classes, net.role)
        assert found == (trial.shape, CLASSES, role), f"says {found} of itself"


def shape(trial: Trial) -> None:
    """Velocities are like the states, in single and in double precision, for one row and none."""
    for role in LADDER:
        net = trial.network(role)
        for dtype in (torch.float32, torch.float64):
            net.to(dtype)
            for rows in (ROWS, 1, 0):
                inputs = _as(trial.inputs(ROWS), dtype)
                found = net(*(value[:rows] for value in inputs.values()))
                assert found.shape == (rows, *trial.shape), f"{role}: {tuple(found.shape)}"
                assert found.dtype == dtype, f"{role}: {found.dtype} for states of {dtype}"
                finite(found, f"{role}: velocities")


def role(trial: Trial) -> None:
    """A flow sees no end and no context, a flow map no context, and each sees all the rest."""
    for name, seen in SEEN.items():
        net, inputs = trial.network(name), trial.inputs()
        base = net(*inputs.values())
        for argument, value in inputs.items():
            moved = (value + 1) % (CLASSES + 1) if argument == "label" else value + 0.3
            change = net(*{**inputs, argument: moved}.values()) - base
            if argument in seen:
                assert change.abs().max() > 0, f"a {name} does not depend on {argument}"
            else:
                assert not change.any(), f"a {name} depends on {argument}"


def conditions(trial: Trial) -> None:
    """Features of a condition matter to each row, in every role."""
    if not isinstance(trial.part, ConditionedNetworkSpec):
        raise SkipTest("it is told a condition by its label alone")
    streams = Streams(3, tuple(range(ROWS)))
    features, other = streams.normal((FEATURES,), draws=2).float()
    for name in LADDER:
        net, inputs = trial.network(name, features=FEATURES), trial.inputs()
        found = net(*inputs.values(), features=features)
        change = net(*inputs.values(), features=other) - found
        assert (change.flatten(1).abs().amax(1) > 0).all(), f"a {name} ignores a row's features"


def rows_are_independent(trial: Trial) -> None:
    """A row's velocity is the same alone, among others and reordered."""
    for name in LADDER:
        net, inputs = trial.network(name), trial.inputs()
        together = net(*inputs.values())
        for rows in ([0], [3, 1]):
            few = net(*(value[rows] for value in inputs.values()))
            close(few, together[rows], f"{name}: rows {rows}, and among others")


def gradient(trial: Trial) -> None:
    """Every weight has a gradient, and so has the state."""
    for name in LADDER:
        net, inputs = trial.network(name).requires_grad_(True).train(), trial.inputs()
        inputs["y"].requires_grad_()
        net(*inputs.values()).square().sum().backward()
        for key, parameter in net.named_parameters():
            found = parameter.grad
            assert found is not None, (
                f"{name}: '{key}' takes no part; several processes could not train it"
            )
            finite(found, f"{name}: gradient of '{key}'")
        gradient = inputs["y"].grad
        assert gradient is not None and bool(gradient.any()), f"{name}: the state has no gradient"


def forward_mode(trial: Trial) -> None:
    """Forward-mode derivatives in times and states are those of finite differences."""
    net, step = trial.network("meta_flow_map").double(), 1e-5
    inputs = _as(trial.inputs(), torch.float64)
    for argument in ("s", "u", "y"):
        value, along = inputs[argument], torch.ones_like(inputs[argument])

        def called(moved: Tensor, argument: str = argument) -> Tensor:
            result: Tensor = net(*{**inputs, argument: moved}.values())
            return result

        # As in training: the fused kernels of attention have no forward mode.
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            # Torch itself loads its derivatives by a function that it deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            _, slope, *_ = torch.func.jvp(called, (value,), (along,))
        wanted = (called(value + step) - called(value - step)) / (2 * step)
        # Times may be embedded in single precision.
        digits = 1e-5 if argument == "y" else 0.02
        close(slope, wanted, f"derivative in {argument}, and finite differences", digits=digits)


def grown_networks(trial: Trial) -> None:
    """A map grown from a flow is the flow on its diagonal; a meta flow map is its flow map."""
    inputs = trial.inputs()
    y, s, u, t, x, label = inputs.values()
    flow, flow_map = trial.network("flow"), trial.network("flow_map")
    for name in LADDER[1:]:
        larger = _larger(flow, name)
        for context in (x, 10 * x):
            found, wanted = larger(y, s, s, t, context, label), flow(y, s, s, t, x, label)
            close(found, wanted, f"a {name} grown from a flow on its diagonal, and the flow")
    larger = _larger(flow_map, "meta_flow_map")
    for context in (x, 10 * x):
        found, wanted = larger(y, s, u, t, context, label), flow_map(y, s, u, t, x, label)
        close(found, wanted, "a meta flow map grown from a flow map, and the flow map")


def grown_networks_learn(trial: Trial) -> None:
    """What is new in a grown network has a gradient, so that training can use it."""
    larger = _larger(trial.network("flow"), "meta_flow_map").requires_grad_(True)
    larger(*trial.inputs().values()).square().sum().backward()
    with torch.no_grad():
        for parameter in larger.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-2 * parameter.grad)
    larger, inputs = larger.requires_grad_(False), trial.inputs()
    base = larger(*inputs.values())
    for argument in ("u", "t", "x"):
        change = larger(*{**inputs, argument: inputs[argument] + 0.3}.values()) - base
        assert bool(change.any()), (
            f"after a step of training it still does not depend on {argument}"
        )


def copied_networks(trial: Trial) -> None:
    """A network grown to the role that it has is a copy, and shares no weights."""
    for name in LADDER:
        net, inputs = trial.network(name), trial.inputs()
        twin, before = grown(net, name), net(*inputs.values())
        close(twin(*inputs.values()), before, f"a copied {name}, and the {name}")
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(1)
        assert torch.equal(net(*inputs.values()), before), "a copy shares weights with its origin"


def state_dict(trial: Trial) -> None:
    """Weights that are saved and loaded into another network make the same network."""
    for name in LADDER:
        net, other, inputs = trial.network(name), trial.untrained(name, seed=1), trial.inputs()
        other.load_state_dict({key: value.clone() for key, value in net.state_dict().items()})
        close(other(*inputs.values()), net(*inputs.values()), f"a loaded {name}, and the {name}")
        twin = copy.deepcopy(net)
        close(twin(*inputs.values()), net(*inputs.values()), f"a deep copy, and the {name}")


def options_are_plain(trial: Trial) -> None:
    """The options survive JSON, in which a weights file keeps them."""
    cls, origin = type(trial.part), Origin("tried", "tried", "0")
    catalog = attrs.evolve(load_catalog(()), parts={"network": {cls.kind: Entry(cls, origin)}})
    table = json.loads(json.dumps(spec_table(trial.part, catalog)))
    assert spec_in(table, "network", Path("file"), catalog) == trial.part, "other options"


def weights_are_seeded(trial: Trial) -> None:
    """Untrained weights depend on torch's global generator alone, and calls leave it alone."""
    for name in LADDER:
        first, second = (trial.untrained(name).state_dict() for _ in range(2))
        for key, tensor in first.items():
            assert torch.equal(tensor, second[key]), f"'{key}' is another with the same seed"
        net = trial.network(name)
        with unmoved(torch.device("cpu"), "the network"):
            net(*trial.inputs().values())


def inputs_untouched(trial: Trial) -> None:
    """Arguments are not changed in place."""
    for name in LADDER:
        inputs = trial.inputs()
        before = {key: value.clone() for key, value in inputs.items()}
        trial.network(name)(*inputs.values())
        for key, value in before.items():
            assert torch.equal(inputs[key], value), f"a {name} changes {key} in place"


def _as(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in inputs.items()
    }


def _larger(net: VelocityNetwork, role: Role) -> VelocityNetwork:
    """The network grown to a role; skips the check where it does not grow."""
    try:
        larger = Streams(2, ()).initialise(lambda: grown(net, role))
    except PartError as error:
        raise SkipTest(f"it does not grow: {error}") from error
    return larger.eval().requires_grad_(False)


CHECKS: Final = (
    form,
    described,
    shape,
    role,
    conditions,
    rows_are_independent,
    gradient,
    forward_mode,
    grown_networks,
    grown_networks_learn,
    copied_networks,
    state_dict,
    options_are_plain,
    weights_are_seeded,
    inputs_untouched,
)
