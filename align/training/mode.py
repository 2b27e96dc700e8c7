"""The frame of modes that train: a subclass adds its network, its loss and its export."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self, TypeVar, final

import attrs
from torch import Tensor, nn

from align.core.mode import AlignmentMode, Export, Info, Trainable
from align.core.objective import Loss
from align.core.option import at_least, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.training import checkpoint
from align.training.looks import Looks
from align.training.loop import Optimisation, StepResult, Training, advance, learning_rate_at


@attrs.define(eq=False)
class TrainingState:
    """The state of a mode that trains; a mode adds what its loss needs.

    Attributes:
        training: the module under training, with its averages and its optimiser.
    """

    training: Training


State = TypeVar("State", bound=TrainingState)


@final
@attrs.frozen(kw_only=True)
class Beside:
    """Samples that a training makes beside its steps, in rows.

    Attributes:
        base: through the velocity of the base model.
        own: through the velocity that is trained.
        decoded: by the base model.
        scored: by each reward.
    """

    base: int = 0
    own: int = 0
    decoded: int = 0
    scored: int = 0

    def plus(self, other: Beside, times: int = 1) -> Beside:
        """These rows, and `times` the others."""
        ours, theirs = attrs.astuple(self), attrs.astuple(other)
        names = attrs.fields_dict(Beside)
        sums = (a + times * b for a, b in zip(ours, theirs, strict=True))
        return Beside(**dict(zip(names, sums, strict=True)))


@attrs.frozen(kw_only=True)
class TrainingMode(AlignmentMode[State], Trainable[State]):
    """A mode that trains a network by a loss.

    A subclass defines `init`, which makes the network and begins `Training.of` it, `loss` and
    `exported_model`. Batches, optimisation, checkpoints and running averages are done here.
    """

    optimisation: Optimisation = option("how weights are updated", default=Optimisation())
    steps: int = option("number of optimisation steps", default=4000, check=at_least(1))

    @property
    def sample_every(self) -> int:
        """Steps from one set of pictures in the record to the next; an option of some modes."""
        return self.steps

    def other_with(self, steps: int) -> str:
        """The learning rate must be the same; modes add what else depends on the number."""
        rates = (
            [learning_rate_at(self.optimisation, index, count) for index in range(self.steps)]
            for count in (self.steps, steps)
        )
        if len({*map(tuple, rates)}) == 1:
            return ""
        return (
            "its learning rate depends on the number of steps; with decay = 'none' and a warm-up of"
            " its own ('warmup') it does not"
        )

    def short(self) -> Self:
        """The mode with as few samples before its first step as it can do with."""
        return self

    def before_steps(self, problem: Problem) -> Beside:
        """What `init` makes of samples, as far as options say how many; the default is none."""
        return Beside()

    def between_steps(self, problem: Problem) -> Beside:
        """What `evaluate`, `pictures` and further stages make of samples; the default is none."""
        return Beside()

    @abstractmethod
    def loss(self, problem: Problem, state: State, rows: Streams, index: int) -> Loss:
        """The loss of these rows of training, in step `index`.

        Everything that is random in a row is drawn from `rows`; nothing of a row depends on the
        other rows, so that a batch may be cut anywhere.
        """

    @abstractmethod
    def exported_model(self, problem: Problem, state: State, network: nn.Module) -> Export:
        """What is exported of `network`, a running average of the module that was trained."""

    def pictures(
        self, problem: Problem, state: State, streams: Streams, index: int
    ) -> Tensor | Looks | None:
        """Pictures (B, C, H, W) for the record after step `index`, or None."""
        return None

    def evaluate(
        self, problem: Problem, state: State, streams: Streams, index: int
    ) -> Mapping[str, float]:
        """Further metrics for the record after step `index`, beside its pictures."""
        return {}

    @property
    def batch(self) -> int:
        """Number of rows in a step."""
        return self.optimisation.batch

    def optimise(self, problem: Problem, state: State, index: int, streams: Streams) -> StepResult:
        """Take one step down the gradient of the loss."""

        def loss_of(rows: Streams) -> Loss:
            return self.loss(problem, state, rows, index)

        return advance(state.training, loss_of, self.optimisation, streams, index, self.steps)

    def step(
        self, problem: Problem, state: State, index: int, streams: Streams
    ) -> tuple[State, Info]:
        """One step of optimisation.

        Every `sample_every` steps and at the end, `evaluate` and `pictures` go into the record.
        """
        result = self.optimise(problem, state, index, streams)
        if (index + 1) % self.sample_every and index + 1 < self.steps:
            return state, Info(result.metrics)
        metrics = {**result.metrics, **self.evaluate(problem, state, streams, index)}
        found = self.pictures(problem, state, streams, index)
        looks = Looks(found) if isinstance(found, Tensor) else found
        if looks is None:
            return state, Info(metrics)
        return state, Info(metrics, looks.pictures, captions=looks.captions)

    def finish(self, problem: Problem, state: State) -> Tensor | None:
        """No samples: the pictures of the last step show what was learnt."""
        return None

    def save(self, state: State) -> dict[str, Any]:
        """The tensors of the weights, their averages and the optimiser."""
        return state.training.save()

    def restore(self, state: State, saved: Any) -> None:
        """Bring a state fresh from `init` to where `saved` was."""
        tensors = self.save(state)
        checkpoint.fill(tensors, saved)
        state.training.resume(tensors)

    def export(self, problem: Problem, state: State) -> Export:
        """The model of the first running average, and beside it those of the others."""
        return state.training.exported(lambda network: self.exported_model(problem, state, network))
