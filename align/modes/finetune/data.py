"""Clean data for fine-tuning, and the conditions that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import attrs
import torch
from torch import Tensor

from align.core.dataset import DatasetSpec
from align.core.errors import PartError
from align.core.model import Condition, DataSampler
from align.core.problem import Problem
from align.core.streams import Streams
from align.models.network_model import NetworkModel
from align.modes.finetune.evaluation import samples
from align.training.latents import Examples, encoded


@final
@attrs.frozen(eq=False)
class CleanData:
    """Rows of clean states: pictures, draws of the base model, or a pool of its samples.

    Attributes:
        problem: the problem, with the base model and the prompts.
        model: the model whose classes the rows have.
        prompts: the prompt of rows of each class, by the number of the class.
        examples: the rows; None where the base model draws them.
    """

    problem: Problem
    model: NetworkModel
    prompts: Mapping[int, str]
    examples: Examples | None = None

    @classmethod
    def of(
        cls,
        data: DatasetSpec | None,
        problem: Problem,
        model: NetworkModel,
        pool: int,
        steps: int,
        seed: int,
    ) -> CleanData:
        """Encode the pictures, or make `pool` samples of a model that cannot draw data.

        Raises:
            PartError: no picture is of a class that the prompts name.
        """
        labels = model.encode(problem.prompts).tensors["label"].tolist()
        clean = cls(problem, model, dict(zip(labels, problem.prompts, strict=True)))
        if data is not None:
            return attrs.evolve(clean, examples=clean._of_prompts(encoded(data, model.encoding())))
        if problem.model.capability(DataSampler) is not None:
            return clean
        return attrs.evolve(clean, examples=clean.sampled(model, pool, steps, seed))

    @torch.no_grad()
    def sampled(self, model: NetworkModel, count: int, steps: int, seed: int) -> Examples:
        """`count` samples of a model by `steps` Euler steps, for the prompts in turn."""
        cond, pieces = self.conditions(count), []
        streams = Streams(seed, tuple(range(count)), ("pool",), model.device)
        for first in range(0, count, self.problem.chunk):
            rows = slice(first, min(count, first + self.problem.chunk))
            pieces.append(samples(model, cond.rows(rows), streams.rows(rows), steps))
        return Examples(torch.cat(pieces)[None], cond.tensors["label"], len(self.model.classes))

    def rows(self, rows: Streams) -> tuple[Tensor, Condition]:
        """Clean states (b, *S) of these rows of training, as the base model has them."""
        if self.examples is not None:
            x1, label = self.examples.rows(rows, 0.0)
            return x1.to(self.problem.model.dtype), self._condition_of(label)
        base = self.problem.model.capability(DataSampler)
        assert base is not None
        return base.draw(rows.fold_in("data")), self.conditions(len(rows.samples))

    def conditions(self, count: int) -> Condition:
        """The prompts in turn, as the model encodes them."""
        prompts = self.problem.prompts
        return self.model.encode([prompts[number % len(prompts)] for number in range(count)])

    def _of_prompts(self, examples: Examples) -> Examples:
        """The rows of the classes that the prompts name.

        If a prompt names no class, they are all rows, without their classes.
        """
        labels, null = examples.labels, examples.null_label
        if null in self.prompts:
            return attrs.evolve(examples, labels=torch.full_like(labels, null))
        named = torch.isin(labels, torch.tensor(list(self.prompts)).to(labels))
        if not named.any():
            raise PartError("mode.data: no picture is of a class that model.prompt names")
        rows = torch.nonzero(named)[:, 0]
        states = examples.states[:, rows.to(examples.states.device)]
        return attrs.evolve(examples, states=states, labels=labels[rows])

    def _condition_of(self, label: Tensor) -> Condition:
        """The condition of these labels (b,)."""
        return Condition(tuple(self.prompts[k] for k in label.tolist()), {"label": label})
