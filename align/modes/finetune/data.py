"""Clean data for fine-tuning, and the conditions that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import attrs
import torch
from torch import Tensor

from align.core.dataset import DatasetSpec
from align.core.errors import PartError
from align.core.model import Condition, DataSampler, FlowModel
from align.core.problem import Problem
from align.core.prompts import match_class
from align.core.streams import Streams
from align.models.network_model import encoding_of
from align.modes.pool import in_turn, pool_of
from align.training.latents import Examples, encoded


@final
@attrs.frozen(eq=False)
class CleanData:
    """Rows of clean states: pictures, draws of the base model, or a pool of its samples.

    Attributes:
        problem: the problem, with the base model and the prompts.
        conditions: of the problem's prompts, one row each, as the base model encodes them.
        examples: the rows, labelled by the numbers of their prompts; None where the base model
            draws them.
    """

    problem: Problem
    conditions: Condition
    examples: Examples | None = None

    @classmethod
    def of(
        cls, data: DatasetSpec | None, problem: Problem, pool: int, steps: int, seed: int
    ) -> CleanData:
        """Encode the pictures, or make `pool` samples of a model that cannot draw data.

        Raises:
            PartError: no picture is of a class that the prompts name.
        """
        clean = cls(problem, problem.model.encode(problem.prompts))
        if data is not None:
            encoding = encoding_of(problem.model)
            classes = _classes_of(problem.prompts, clean.conditions, encoding.classes)
            return attrs.evolve(clean, examples=_of_prompts(encoded(data, encoding), classes))
        if problem.model.capability(DataSampler) is not None:
            return clean
        return attrs.evolve(clean, examples=clean.sampled(problem.model, pool, steps, seed))

    def sampled(self, model: FlowModel, count: int, steps: int, seed: int) -> Examples:
        """`count` samples of a model by `steps` Euler steps, for the prompts in turn."""
        return pool_of(self.problem, model, self.conditions, count, steps, seed)

    def rows(self, rows: Streams) -> tuple[Tensor, Condition]:
        """Clean states (b, *S) of these rows of training, as the base model has them."""
        if self.examples is not None:
            x1, prompts = self.examples.rows(rows, 0.0)
            return x1.to(self.problem.model.dtype), self.conditions.rows(prompts)
        base = self.problem.model.capability(DataSampler)
        assert base is not None
        return base.draw(rows.fold_in("data")), self.in_turn(rows.samples)

    def in_turn(self, numbers: tuple[int, ...] | range) -> Condition:
        """The conditions of rows with these numbers, which have the prompts in turn."""
        return self.conditions.rows(in_turn(self.conditions, numbers))


def _classes_of(
    prompts: Sequence[str], conditions: Condition, classes: tuple[str, ...]
) -> Sequence[int]:
    """The number of the class that each prompt names, or the number of classes for none."""
    if not classes:
        return [0] * len(prompts)
    if "label" in conditions.tensors:
        labels: list[int] = conditions.tensors["label"].tolist()
        return labels
    return [match_class(prompt, classes) if prompt else len(classes) for prompt in prompts]


def _of_prompts(examples: Examples, classes: Sequence[int]) -> Examples:
    """The rows of the classes that the prompts name, labelled by the numbers of the prompts.

    Rows of a class that several prompts name are labelled by the last of these. If a prompt names
    no class, they are all rows, with that prompt.

    Raises:
        PartError: no row is of such a class.
    """
    null, numbers = examples.null_label, {label: number for number, label in enumerate(classes)}
    if null in numbers:
        return attrs.evolve(examples, labels=torch.full_like(examples.labels, numbers[null]))
    labels = examples.labels
    named = torch.isin(labels, torch.tensor(list(numbers)).to(labels))
    if not named.any():
        raise PartError("mode.data: no picture is of a class that model.prompt names")
    rows = torch.nonzero(named)[:, 0]
    prompt_of = torch.full((null,), -1).to(labels)
    for label, number in numbers.items():
        prompt_of[label] = number
    states = examples.states[:, rows.to(examples.states.device)]
    return attrs.evolve(examples, states=states, labels=prompt_of[labels[rows]])
