"""What the reward says of where states lead, and which way it rises there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, final

import attrs
import torch
from torch import Tensor

from align.core.errors import OptionError, PartError
from align.core.model import Condition, FlowMap, FlowModel, ModelSpec, ToData
from align.core.option import ConfigError
from align.core.path import times_of
from align.core.problem import Problem

_MISSING: Final[Mapping[type[ToData], str]] = MappingProxyType(
    {
        ToData: "the model cannot jump to the data in one call",
        FlowMap: "the model cannot jump along its flow in one call",
    }
)


@final
@attrs.frozen(eq=False)
class Ahead:
    """Where B states lead, and what the reward says there; without a graph.

    Attributes:
        x1: clean states, (B, *S).
        reward: r of them, (B,).
        gradient: of r by the states that were led there, (B, *S).
    """

    x1: Tensor
    reward: Tensor
    gradient: Tensor


def look_ahead(
    problem: Problem, x: Tensor, cond: Condition, lead: Callable[[Tensor, Condition], Tensor]
) -> Ahead:
    """R(x) = r(`lead`(x)) and ∇R at states x (B, *S); costs `lead` and r a row, and the way back.

    Args:
        problem: its reward is asked.
        x: the states.
        cond: their conditions.
        lead: clean states (B, *S) from states and conditions, differentiable.
    """

    def piece(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        part = cond.rows(rows)
        with torch.enable_grad():
            states = x[rows].detach().requires_grad_()
            x1 = lead(states, part)
            reward = problem.reward_of(x1[None], part)[0]
            (gradient,) = torch.autograd.grad(reward.sum(), states)
        return x1.detach(), reward.detach(), gradient

    pieces = problem.chunks.cut("gradient of the reward", len(x), piece)
    return Ahead(*(torch.cat(part) for part in zip(*pieces, strict=True)))


def jumps_from(model: FlowModel, time: float) -> Callable[[Tensor, Condition], Tensor]:
    """The model's jump from one time to the data, as `look_ahead` asks for it.

    Raises:
        PartError: the model has none.
    """
    jumps = model.capability(ToData)
    if jumps is None:
        raise PartError(_MISSING[ToData])
    return lambda x, cond: jumps.to_data(x, times_of(x, time), cond)


def problems_of_jumps(
    model: ModelSpec, cure: str, needs: type[ToData] = ToData
) -> Iterator[ConfigError]:
    """That a model has no map, where it has none.

    Args:
        model: as the recipe names it.
        cure: what to do instead.
        needs: `FlowMap` where the flow between the times matters too.
    """
    if not model.can(needs):
        yield ConfigError(("kind",), f"{_MISSING[needs]}; {cure}")


def check_jumps(model: FlowModel, cure: str, needs: type[ToData] = ToData) -> None:
    """Raise OptionError where the model has no map; see `problems_of_jumps`."""
    if model.capability(needs) is None:
        raise OptionError(f"mode.kind: {_MISSING[needs]}; {cure}", ("mode", "kind"))
