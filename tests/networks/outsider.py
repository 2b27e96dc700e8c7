"""A network and a data set as another distribution brings them, in one file."""

from __future__ import annotations

import math
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor, nn

from align.catalog.hookspecs import hookimpl
from align.core.dataset import Dataset, DatasetSpec
from align.core.network import NetworkSpec, VelocityNetwork
from align.core.option import at_least, option
from align.core.streams import Streams


@final
@attrs.frozen(kw_only=True)
class Shallow(NetworkSpec):
    """One hidden layer, for states of any shape."""

    kind: ClassVar[str] = "shallow"
    domain: ClassVar[None] = None

    units: tuple[int, ...] = option("units of the hidden layer, in groups", default=(8, 8))

    def build(self, shape, classes, role):
        return ShallowNetwork(self, shape, classes, role)


class ShallowNetwork(VelocityNetwork):
    """Reads all that its role depends on at once."""

    def __init__(self, config, shape, classes, role):
        super().__init__(config, shape, classes, role)
        size, units = math.prod(shape), sum(config.units)
        inputs = {"flow": size + 1, "flow_map": size + 2, "meta_flow_map": 2 * size + 3}[role]
        self.enter = nn.Linear(inputs, units)
        self.label = nn.Embedding(classes + 1, units)
        self.leave = nn.Linear(units, size)

    def forward(self, y: Tensor, s, u, t, x, label) -> Tensor:
        inputs = [y.flatten(1), s[:, None]]
        if self.role != "flow":
            inputs += [u[:, None]]
        if self.role == "meta_flow_map":
            inputs += [t[:, None], x.flatten(1)]
        hidden = self.enter(torch.cat(inputs, 1)) + self.label(label)
        return self.leave(torch.tanh(hidden)).reshape(y.shape)

    def weights_for(self, larger):
        enter = torch.zeros_like(larger.enter.weight)
        enter[:, : self.enter.in_features] = self.enter.weight.detach()
        return self.state_dict() | {"enter.weight": enter}


@final
@attrs.frozen(kw_only=True)
class TwoMoons(DatasetSpec):
    """Two half circles that reach into each other."""

    kind: ClassVar[str] = "two_moons"
    domain: ClassVar[str] = "vector"

    count: int = option("number of rows", default=64, check=at_least(2))
    noise: float = option("deviation of the noise", default=0.05, check=at_least(0))

    def open(self, colours):
        return Moons(self.count, self.noise)


@final
@attrs.frozen(eq=False)
class Moons(Dataset):
    """Row k is of the upper half circle if k is even."""

    count: int
    noise: float
    shape = (2,)
    classes = ("upper", "lower")

    @property
    def labels(self):
        return torch.arange(self.count) % 2

    def rows(self, numbers):
        streams = Streams(0, tuple(numbers)).fold_in("moons")
        angle = math.pi * streams.fold_in("angle").uniform(())
        lower = torch.tensor(numbers)[:, None] % 2
        upper = torch.stack((angle.cos(), angle.sin()), 1)
        moons = torch.where(lower == 1, torch.tensor([1.0, 0.5]) - upper, upper)
        return moons + self.noise * streams.fold_in("noise").normal((2,))


@hookimpl
def align_networks():
    return [Shallow]


@hookimpl
def align_datasets():
    return [TwoMoons]
