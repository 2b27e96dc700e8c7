"""Networks of velocities as the rest of `align` sees them: flows, flow maps and meta flow maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Final, Literal, Self, TypeAlias

import attrs
from torch import Tensor, nn

from align.core.attribution import made
from align.core.errors import PartError
from align.core.model import Domain
from align.core.option import ConfigError

Role: TypeAlias = Literal["flow", "flow_map", "meta_flow_map"]
"""A flow b_s(y), a flow map with the average velocity v_{s,u}(y), or a meta flow map with that of
the inner flow, v_{s,u}(y; t, x)."""

OBJECTS: Final = 1000
"""Weights whose memory the Python objects of one block take, about."""

LADDER: Final[tuple[Role, ...]] = ("flow", "flow_map", "meta_flow_map")
"""The roles in the order in which a network grows from one to the next."""


@attrs.frozen(kw_only=True)
class NetworkSpec(ABC):
    """An architecture as a recipe names it: options only, until `build` makes a network.

    A weights file names the `kind` and holds the options as JSON, so options are plain values:
    numbers, strings, booleans, tuples of those.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def domain(self) -> Domain | None:
        """What one state is: "image" for (C, H, W), "vector" for (D,); None for any shape."""

    @property
    def weights_at_least(self) -> int:
        """A lower bound of the number of weights, known from the options; 0 if nobody counted."""
        return 0

    def shape_problems(self, shape: tuple[int, ...]) -> Iterable[ConfigError]:
        """Why no network with these options takes states of this shape, by the option's key.

        `align check` asks it, and `build` is not called where there is a reason.
        """
        return ()

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int, role: Role) -> VelocityNetwork:
        """An untrained network; its weights are drawn from torch's global generator.

        Args:
            shape: S, the shape of one state.
            classes: number of classes; labels run from 0 to `classes`, which means "no class".
            role: what the network is.

        Raises:
            PartError: the network cannot take states of this shape.
        """


@attrs.frozen(kw_only=True)
class ConditionedNetworkSpec(NetworkSpec):
    """An architecture whose networks may be told more of a condition than its label.

    Such a network has `features` numbers F: its `forward` then takes them for each row, (B, F), as
    the keyword argument `features`. They are what a model says of its condition (`features_of`).
    """

    @abstractmethod
    def build(
        self, shape: tuple[int, ...], classes: int, role: Role, features: int = 0
    ) -> VelocityNetwork:
        """As `NetworkSpec.build`; the network takes so many `features` of a condition."""


class VelocityNetwork(nn.Module):
    """A network of an average velocity v_{s,u}(y; t, x).

    A flow ignores `u`, `t` and `x`: it is b_s(y). A flow map ignores `t` and `x`. Row i of the
    result depends on row i of the arguments alone.

    Args:
        config: the options that it was built from.
        shape: S, the shape of one state.
        classes: number of classes; label `classes` means "no class".
        role: what the network is.
        features: numbers of a condition that it takes beside the label; see
            `ConditionedNetworkSpec`.

    Attributes:
        guidance_scales: the scales of classifier-free guidance that the network embeds, rising.
            Where there are any, `forward` takes the scale (B,) that each row asks for last, and
            the result is guided already.
    """

    guidance_scales: tuple[float, ...] = ()

    def __init__(
        self,
        config: NetworkSpec,
        shape: tuple[int, ...],
        classes: int,
        role: Role,
        features: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.shape, self.classes, self.role = config, shape, classes, role
        self.features = features

    def forward(
        self, y: Tensor, s: Tensor, u: Tensor, t: Tensor, x: Tensor, label: Tensor
    ) -> Tensor:
        """Average velocity (B, *S) from the state y (B, *S) over times s to u, given (t, x).

        Times are (B,), the context x is (B, *S), and labels are (B,), int64.
        """
        raise NotImplementedError

    def weights_for(self, larger: Self) -> Mapping[str, Tensor]:
        """A state dict with which `larger`, of a higher role, says what this network says.

        See `grown` for what that means. The default refuses: implement it to let `distill` start
        from a copy of this network.

        Raises:
            PartError: this kind of network cannot be grown.
        """
        raise PartError(
            f"mode.net: a '{self.config.kind}' cannot be grown from a {self.role} to a"
            f" {larger.role}; name the network that is to be trained, net = {{ kind = ... }}"
        )


def shape_problems(spec: NetworkSpec, shape: tuple[int, ...]) -> Iterator[ConfigError]:
    """Why no network of this architecture takes states of this shape, by the option's key."""
    dims = {"image": 3, "vector": 1, None: len(shape)}[spec.domain]
    if len(shape) != dims:
        yield ConfigError(
            (),
            f"'{spec.kind}' is a network of {spec.domain}s, but the model's states have the shape"
            f" {shape}; use another kind of network",
        )
    else:
        yield from spec.shape_problems(shape)


def make_network(
    spec: NetworkSpec, shape: tuple[int, ...], classes: int, role: Role, features: int = 0
) -> VelocityNetwork:
    """An untrained network for states of this shape; see `NetworkSpec.build`.

    Raises:
        PartError: the network cannot take states of this shape, or no features.
    """
    for problem in shape_problems(spec, shape):
        raise PartError(f"{'.'.join(('net', *map(str, problem.key)))}: {problem.text}")
    who = f"network '{spec.kind}': build"
    if not features:
        return made(who, lambda: spec.build(shape, classes, role), VelocityNetwork)
    if not isinstance(spec, ConditionedNetworkSpec):
        raise PartError(
            f"net: '{spec.kind}' is told a condition by its label alone, and the model's conditions"
            " are more than labels; use 'mlp', 'unet' or 'dit'"
        )
    return made(who, lambda: spec.build(shape, classes, role, features), VelocityNetwork)


def grown(net: VelocityNetwork, role: Role) -> VelocityNetwork:
    """A new network of the same or a higher `role` that says what `net` says.

    A map made from a flow is the flow on its diagonal s = u. A meta flow map made from a flow map
    is that flow map, at all s and u, whatever its context (t, x). A network that already has the
    role is copied.

    Reference: Decoupled MeanFlow, Lee et al., 2025, arXiv:2510.24474, section 3; Meta Flow Maps,
    Potaptchik et al., 2026, arXiv:2601.14430, appendix on architecture.

    Raises:
        ValueError: `role` is lower than that of the network.
        PartError: this kind of network cannot be grown.
    """
    if LADDER.index(role) < LADDER.index(net.role):
        raise ValueError(f"a {net.role} cannot be made a {role}")
    larger = make_network(net.config, net.shape, net.classes, role, net.features)
    larger.load_state_dict(net.state_dict() if role == net.role else net.weights_for(larger))
    return larger
