"""Modes: what a run does, one step at a time; the loop is the engine's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, Literal, TypeVar, final

import attrs
from torch import Tensor, nn

from align.core.model import FlowModel, ModelSpec
from align.core.option import ConfigError
from align.core.problem import Problem
from align.core.streams import Streams

Need = Literal["model", "sampler", "estimator", "reward"]
State = TypeVar("State")


@final
@attrs.frozen(eq=False)
class Info:
    """What one step tells the record: named numbers, and sometimes pictures.

    Attributes:
        numbers: plain floats; "reward" is the mean of r, and shown beside the progress bar.
        pictures: decoded samples (B, C, H, W) worth keeping, or None.
        errors: standard errors of some of the numbers, by the number's name.
        draws: clean states (N, B, *S) that the step was guided by, or None; a run decodes those of
            some steps as pictures on the way.
        captions: what stands beneath the pictures, one for each, such as names of classes; none
            where nothing does.
    """

    numbers: Mapping[str, float]
    pictures: Tensor | None = None
    errors: Mapping[str, float] = attrs.field(factory=dict)
    draws: Tensor | None = None
    captions: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class AlignmentMode(ABC, Generic[State]):
    """What a run does. `State` holds only what the next step needs.

    A subclass states a property either as a class attribute, or as a property where it depends on
    the options.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]:
        """The sections that a recipe must have for this mode."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of calls of `step`."""

    @property
    def independent(self) -> bool:
        """Whether a sample depends on no other, so that samples may be made in blocks."""
        return True

    def spec_problems(self, model: ModelSpec) -> Iterable[ConfigError]:
        """Options that do not go with the model, known before it is built, by the option's key."""
        return ()

    def check_model(self, model: FlowModel) -> None:
        """Raise OptionError for options that do not go with the model, before anything is run."""

    @abstractmethod
    def init(self, problem: Problem, streams: Streams) -> State:
        """The state before the first step; one sample for each row of `streams`."""

    @abstractmethod
    def step(
        self, problem: Problem, state: State, index: int, streams: Streams
    ) -> tuple[State, Info]:
        """Step number `index`, counted from 0."""

    @abstractmethod
    def finish(self, problem: Problem, state: State) -> Tensor | None:
        """Clean states x1 (B, *S) of the samples; None from a mode that makes none."""


@final
@attrs.frozen(eq=False)
class Export:
    """What a training run leaves behind: modules by name, and what the weights file says of them.

    `about` becomes JSON; a model of kind "network" is built from it alone. `others` make further
    exports of the same run, by the suffix of their files; `files` are kept as they are.
    """

    modules: Mapping[str, nn.Module]
    about: Mapping[str, Any]
    others: Mapping[str, Callable[[], Export]] = attrs.field(factory=dict)
    files: Mapping[str, bytes] = attrs.field(factory=dict)


class ReportsKL(ABC, Generic[State]):
    """Capability of a mode: it can say how far its samples are from those of the base model."""

    @abstractmethod
    def path_kl(self, state: State) -> float | None:
        """KL(samples | base model) in nats by the mode's own account; None where it has none."""

    @property
    def is_base(self) -> bool:
        """Whether the samples are known beforehand to be those of the base model."""
        return False


class UsesComparisons:
    """Capability of a mode: it asks r of all candidates of a sample together.

    So it can be steered by judges that compare, of which other modes are refused.
    """


class Continues(ABC):
    """Capability of a mode: its first steps are all steps of the same mode with fewer.

    Where an earlier arm took them, a run goes on from there, and charges them all the same.
    """

    @abstractmethod
    def steps_shared(self, other: AlignmentMode[Any]) -> int:
        """All steps of the other mode, where these are the first of this one; 0 where not.

        The state that the other ends in is then the state of this one after as many steps.
        """


class UsesRewardGradient(ABC):
    """Capability of a mode: its own loss may follow the reward's gradient."""

    @property
    @abstractmethod
    def gradient_of(self) -> Literal["", "reward", "draws"]:
        """Whether it does: through the reward alone, or through posterior draws too."""


class HasWarnings(ABC, Generic[State]):
    """Capability of a mode: at its end it may have something to say beside the table."""

    @abstractmethod
    def warnings(self, state: State) -> tuple[str, ...]:
        """One sentence each; none where all is well."""


class Trainable(ABC, Generic[State]):
    """Capability of a mode: its state outlives the process, and it ends in weights.

    Several processes may train together: each runs the same mode on its share of every batch.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def batch(self) -> int:
        """Rows of data of a step."""

    def other_with(self, steps: int) -> str:
        """Why the steps of this mode are not the first ones of the same with more `steps`.

        "" where they are, so that a training may go on beyond its end.
        """
        return f"'{self.kind}' does not say whether its steps depend on how many there are"

    @abstractmethod
    def save(self, state: State) -> dict[str, Any]:
        """Everything that the next step depends on, beyond what `init` rebuilds."""

    @abstractmethod
    def restore(self, state: State, saved: dict[str, Any]) -> None:
        """Bring a state fresh from `init` to where `saved` was."""

    @abstractmethod
    def export(self, problem: Problem, state: State) -> Export:
        """The trained weights."""
