"""Samples of a run that is done, as the first block of a run with more of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import attrs
import torch
from torch import Tensor

from align.core.departure import Traits
from align.core.executor import Task
from align.core.metric import update_metric
from align.core.mode import Info
from align.report.schema import ArmNumbers, RunResults, read_metrics
from align.runner.base_samples import arms_with_bases
from align.runner.block import Block
from align.runner.build import Built, Rewards, build
from align.runner.samples import Samples
from align.runner.store import BlockStore


@final
@attrs.frozen(eq=False)
class Before:
    """A run that is done, of which another one with more samples makes what is missing.

    Attributes:
        folder: of the run.
        results: its numbers.
        samples: how many every arm has.
    """

    folder: Path
    results: RunResults
    samples: int

    def fill(self, store: BlockStore, rewards: Rewards) -> None:
        """Keep the samples of every arm as a block, where they are not kept yet.

        They are decoded again, and not scored; their states, scores, steps and costs are those of
        the run.
        """
        lines = read_metrics(self.folder)
        recipe, numbers = store.recipe, {arm.name: arm for arm in self.results.arms}
        compared = [arm.model for arm in arms_with_bases(recipe)]
        for number, arm in enumerate(recipe.arms()):
            task = Task(name=f"samples of '{arm.name}'", arms=(number,), count=self.samples)
            if store.holds(task):
                continue
            built = build(arm, rewards, recipe.run, samples=range(self.samples))
            own = [line for line in lines if line["arm"] == arm.name]
            block = self._block(built, numbers[arm.name], own, compared=arm.model in compared)
            kept = tuple(update_metric(metric, _data(block)) for metric in recipe.metric)
            store.write(number, task, attrs.evolve(block, kept=kept))

    @torch.no_grad()
    def _block(
        self,
        built: Built,
        arm: ArmNumbers,
        lines: Sequence[Mapping[str, Any]],
        *,
        compared: bool,
    ) -> Block:
        """The samples of an arm; `lines` are those of metrics.jsonl about it."""
        problem = built.problem
        model, cond = problem.model, problem.cond
        x1 = Samples(self.folder / arm.folder, self.samples).states()
        x1 = x1.to(model.device, model.dtype)
        departed = arm.departure and arm.departure.note(arm.samples)  # of these samples alone
        return Block(
            samples=self.samples,
            x1=x1,
            data=model.decode(x1),
            scores={name: _tensor(scores) for name, scores in arm.scores.items()},
            traits=Traits.of(model, x1, cond, built.streams) if compared else None,
            path_kl=arm.divergence.at_most if arm.divergence else None,
            cost=arm.cost,
            steps=tuple(map(_info, lines)),
            notes=tuple(note for note in arm.notes if note != departed),
            inputs=arm.inputs,
            licence=arm.licence,
            given=built.reference_images(),
        )


def _data(block: Block) -> Tensor:
    assert block.data is not None
    return block.data


def _info(line: Mapping[str, Any]) -> Info:
    """What a step said, of a line of metrics.jsonl."""
    numbers = {k: v for k, v in line.items() if k not in ("arm", "step", "errors")}
    return Info(numbers, errors=line.get("errors", {}))


def _tensor(scores: Sequence[float]) -> Tensor:
    """Scores as they were: in single precision, unless that loses digits."""
    double = torch.tensor(scores, dtype=torch.float64)
    return single if torch.equal((single := double.float()).double(), double) else double
