"""Models without weights: tensors that have a shape and no numbers, so that costs are derived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from align.core.errors import PartError
from align.core.model import (
    Able,
    Condition,
    Domain,
    FlowMap,
    FlowModel,
    NoisyState,
    PosteriorMap,
    ToData,
)
from align.core.path import Path, times_of
from align.engine.cost import PartCost, part_cost
from align.engine.meter import Meter


def called(model: FlowModel, method: str, x: Tensor, cond: Condition) -> Tensor:
    """What a method of a model makes of states x (B, *S) in the middle of their way.

    Raises:
        PartError: the model has no such method.
    """
    half = times_of(x, 0.5)
    if method == "velocity":
        return model.velocity(x, half, cond)
    if method == "decode":
        return model.decode(x)
    if method == "jump" and (jumps := model.capability(FlowMap)):
        return jumps.jump(x, half, half + 0.5, cond)
    if method == "to_data" and (ends := model.capability(ToData)):
        return ends.to_data(x, half, cond)
    if method == "posterior_jump" and (draws := model.capability(PosteriorMap)):
        y = x.detach().flip(-1)
        return draws.posterior_jump(y, half - 0.5, half + 0.5, NoisyState(x, half, cond))
    raise PartError(f"the model has no {method}")


@final
class Sketch(FlowModel):
    """A model whose networks have no numbers; it is asked what calls cost, and cannot make any.

    Attributes:
        weights: bytes of its parameters and buffers.
    """

    def __init__(self, model: FlowModel, networks: Sequence[nn.Module]) -> None:
        """Take the numbers out of networks that were built on the device "meta"."""
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._model, self.weights = model, 0
        self.path: Path = model.path
        self.shape: tuple[int, ...] = model.shape
        self.domain: Domain = model.domain
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        with self._fake:
            for module in (part for network in networks for part in network.modules()):
                self._empty(module)

    def encode(self, prompts: Sequence[str]) -> Condition:
        """The model's condition."""
        return self._model.encode(prompts)

    def velocity(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """Raises PartError."""
        raise PartError("the model has no weights here")

    def decode(self, x1: Tensor) -> Tensor:
        """Raises PartError."""
        raise PartError("the model has no weights here")

    @property
    def rows_per_velocity(self) -> int:
        """The model's."""
        return self._model.rows_per_velocity

    def capability(self, kind: type[Able]) -> Able | None:
        """The model's."""
        return self._model.capability(kind)

    def cost(self, method: str, cond: Condition, gradient: bool) -> PartCost:
        """What a call of a method costs; nothing is timed."""

        def inputs(rows: int) -> Tensor:
            return torch.empty((rows, *self.shape), dtype=self.dtype, device=self.device)

        def call(x: Tensor, meter: Meter) -> Tensor:
            own = Condition(cond.prompts[:1] * len(x), _spread(cond, len(x)))
            per_row = self.rows_per_velocity if method in ("velocity", "to_data") else 1
            part = "decoder" if method == "decode" else "network"
            result = meter.measured(
                part, per_row * len(x), lambda: called(self._model, method, x, own)
            )
            return meter.count(part, result, per_row)

        with self._fake:
            return part_cost(call, inputs, gradient=gradient, how="derived")

    def _empty(self, module: nn.Module) -> None:
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
                self.weights += empty.numel() * empty.element_size()
                named: Any = table
                named[name] = nn.Parameter(empty, False) if table is module._parameters else empty


def _spread(cond: Condition, rows: int) -> dict[str, Tensor]:
    """Tensors of a condition with so many rows like its first."""
    return {
        name: torch.empty((rows, *value.shape[1:]), dtype=value.dtype, device=value.device)
        for name, value in cond.tensors.items()
    }
