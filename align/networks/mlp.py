"""A multilayer perceptron with the interface of the transformer, for states that are vectors."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.core.model import Domain
from align.core.network import OBJECTS, ConditionedNetworkSpec, Role, VelocityNetwork
from align.core.option import at_least, option


@final
@attrs.frozen(kw_only=True)
class MLPConfig(ConditionedNetworkSpec):
    """A multilayer perceptron, for vectors.

    Its layers are residual.
    """

    kind: ClassVar[str] = "mlp"
    domain: ClassVar[Domain | None] = "vector"

    width: int = option("units of a hidden layer", check=at_least(1), default=128)
    depth: int = option("number of residual layers", check=at_least(1), default=3)

    @property
    def weights_at_least(self) -> int:
        """Two square layers a block, and its Python objects."""
        return self.depth * (2 * self.width**2 + OBJECTS)

    def build(self, shape: tuple[int, ...], classes: int, role: Role, features: int = 0) -> MLP:
        """An untrained perceptron."""
        return MLP(self, shape, classes, role, features)


@final
class MLP(VelocityNetwork):
    """A multilayer perceptron of states (D,); see `VelocityNetwork` for its arguments."""

    config: MLPConfig

    def __init__(
        self,
        config: MLPConfig,
        shape: tuple[int, ...],
        classes: int,
        role: Role,
        features: int = 0,
    ) -> None:
        super().__init__(config, shape, classes, role, features)
        (dim,) = shape
        inputs = {"flow": dim + 8, "flow_map": dim + 2 * 8, "meta_flow_map": 2 * dim + 3 * 8}[role]
        self.enter = nn.Linear(inputs, config.width)
        self.label = nn.Embedding(classes + 1, config.width)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(),
                nn.Linear(config.width, config.width),
                nn.SiLU(),
                nn.Linear(config.width, config.width),
            )
            for _ in range(config.depth)
        )
        self.leave = nn.Linear(config.width, dim)
        if features:
            self.condition = nn.Linear(features, config.width, bias=False)

    def forward(
        self,
        y: Tensor,
        s: Tensor,
        u: Tensor,
        t: Tensor,
        x: Tensor,
        label: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        """Average velocity (B, D) from y (B, D) over inner times s to u, given (t, x)."""
        inputs = [y, _waves(s)]
        if self.role != "flow":
            inputs += [_waves(u)]
        if self.role == "meta_flow_map":
            inputs += [x, _waves(t)]
        h = self.enter(torch.cat(inputs, 1)) + self.label(label)
        if self.features:
            h = h + self.condition(features)
        for layer in self.layers:
            h = h + layer(h)
        average: Tensor = self.leave(F.silu(h))
        return average

    def weights_for(self, larger: MLP) -> dict[str, Tensor]:
        """State dict of `larger`, whose first layer is silent about features that are new."""
        enter = torch.zeros_like(larger.enter.weight)
        enter[:, : self.enter.in_features] = self.enter.weight.detach()
        return self.state_dict() | {"enter.weight": enter}


def _waves(t: Tensor) -> Tensor:
    """Low-frequency features (B, 8) of times (B,): derivatives in time stay small."""
    angles = torch.stack((t / 2, t, 2 * t, 4 * t), 1)
    return torch.cat((angles.cos(), angles.sin()), 1)
