"""A multilayer perceptron with the interface of the transformer, for states that are vectors."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.core.option import at_least, option
from align.networks.role import Role


@final
@attrs.frozen(kw_only=True)
class MLPConfig:
    """Size of a multilayer perceptron."""

    kind: ClassVar[str] = "mlp"

    width: int = option("units of a hidden layer", check=at_least(1), default=128)
    depth: int = option("number of residual layers", check=at_least(1), default=3)


@final
class MLP(nn.Module):
    """Average velocity v_{s,u}(y; t, x) of the inner flow; without a context, of the flow itself.

    Args:
        config: the size.
        shape: (D,) of a state.
        classes: number of classes; label `classes` means "no class".
        role: what it is; a flow ignores u, and only a meta flow map sees t and x.
    """

    def __init__(self, config: MLPConfig, shape: tuple[int, ...], classes: int, role: Role) -> None:
        super().__init__()
        self.config, self.shape, self.role = config, shape, role
        (dim,) = shape
        features = {"flow": dim + 8, "flow_map": dim + 2 * 8, "meta_flow_map": 2 * dim + 3 * 8}[
            role
        ]
        self.enter = nn.Linear(features, config.width)
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

    def forward(
        self, y: Tensor, s: Tensor, u: Tensor, t: Tensor, x: Tensor, label: Tensor
    ) -> Tensor:
        """Average velocity (B, D) from y (B, D) over inner times s to u, given (t, x)."""
        seen = [y, _waves(s)]
        if self.role != "flow":
            seen += [_waves(u)]
        if self.role == "meta_flow_map":
            seen += [x, _waves(t)]
        h = self.enter(torch.cat(seen, 1)) + self.label(label)
        for layer in self.layers:
            h = h + layer(h)
        average: Tensor = self.leave(F.silu(h))
        return average


def _waves(t: Tensor) -> Tensor:
    """Low-frequency features (B, 8) of times (B,): derivatives in time stay small."""
    angles = t[:, None] * torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=t.dtype, device=t.device)
    return torch.cat((angles.cos(), angles.sin()), 1)
