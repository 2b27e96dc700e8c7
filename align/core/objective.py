"""Objectives: what training minimises, and what a loss returns."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import ClassVar, final

import attrs
from torch import Tensor


@attrs.frozen(kw_only=True)
class Objective(ABC):
    """A loss, or a part of one, that a recipe names in the table of a training mode.

    Each training mode says in a contract of its own what it asks of an objective:
    `align.modes.finetune.objective.FinetuneObjective`,
    `align.modes.distill.consistency.ConsistencyLoss` and
    `align.modes.distill.diagonal.DiagonalTarget`. An option of one of these types takes the kinds
    of that contract alone.
    """

    kind: ClassVar[str]


@final
@attrs.frozen(eq=False)
class GroupedValues:
    """A number of each row, whose mean over the rows of each group is asked for.

    Attributes:
        values: the numbers, (b,).
        groups: the group of each row, (b,), from 0 to `count` − 1.
        count: number of groups, the same in every process.
    """

    values: Tensor
    groups: Tensor
    count: int


@final
@attrs.frozen(eq=False)
class Loss:
    """What a loss returns for b rows of training.

    Attributes:
        values: the loss of each row, (b,); the optimiser follows the gradient of their mean.
        metrics: numbers for the record by name, one for each row that they are about, (n,).
        weights: e^{r − c} of each row, grouped by prompt, by which fine-tuning moves the c of each
            prompt; None where rows are not weighed.
    """

    values: Tensor
    metrics: Mapping[str, Tensor] = attrs.field(factory=dict)
    weights: GroupedValues | None = None

    def detached(self) -> Loss:
        """The same numbers without a graph."""
        metrics = {name: values.detach() for name, values in self.metrics.items()}
        return attrs.evolve(self, values=self.values.detach(), metrics=metrics)
