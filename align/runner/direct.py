"""Parts that run directly, from Python: without a recipe, and without a record."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.catalog.contracts import CONTRACT_CLASSES
from align.catalog.convert import read_part, read_term
from align.catalog.describe import dotted
from align.catalog.registry import CONTRACTS, Catalog, load_catalog
from align.core.attribution import seen
from align.core.errors import ContractError, PartError, UserInterrupt
from align.core.estimator import ValueEstimator
from align.core.mode import AlignmentMode, Info
from align.core.model import (
    ClassConditional,
    DataSampler,
    DescribesConditions,
    Domain,
    EncodesPictures,
    FlowMap,
    FlowModel,
    ModelSpec,
    PosteriorMap,
    Scheduled,
    ToData,
)
from align.core.option import ConfigErrors
from align.core.reward import Compares, Reward, RewardSpec
from align.core.sampler import PosteriorSampler
from align.core.term import RewardTerm
from align.engine.loop import Observer
from align.recipe import Recipe, Run, with_unique_names
from align.recipe.compatibility import check_compatibility
from align.runner.base_samples import sample_bases
from align.runner.build import Rewards, build, device_of
from align.runner.results import ArmResult, Step, score
from align.runner.wrap import wrap

Part: TypeAlias = "str | Mapping[str, Any]"
"""The kind of a part, or a table with its kind and options, as a recipe has it."""
RewardLike: TypeAlias = (
    "RewardTerm | RewardSpec | Reward | Callable[..., Any] | str | Mapping[str, Any]"
)
"""A reward with its weight, a reward, or a function of pictures (and prompts)."""

_CAPABILITIES: tuple[type, ...] = (
    ToData,
    FlowMap,
    PosteriorMap,
    DataSampler,
    ClassConditional,
    DescribesConditions,
    EncodesPictures,
    Scheduled,
)


def sample(
    model: object,
    mode: AlignmentMode[Any] | Part,
    *,
    rewards: RewardLike | Sequence[RewardLike] | Mapping[str, RewardLike] = (),
    sampler: PosteriorSampler | Part | None = None,
    estimator: ValueEstimator | Part | None = None,
    prompt: str | None = None,
    samples: int = 8,
    unsteered: int = 0,
    seed: int = 0,
    device: str = "auto",
    callback: Callable[[Step], object] | None = None,
    trajectory: bool = False,
) -> ArmResult:
    """Run parts directly, without a recipe and without a record; for notebooks.

    Every part may be an object, its kind, or a table with its kind and options.

    Args:
        model: the base model: a part, a built `FlowModel`, or what `align.wrap` takes, such as a
            pipeline of diffusers.
        mode: what is done.
        rewards: what samples should score high on, one or several, or by name: rewards, or
            functions of data (B, 3, H, W) or (B, D), and of prompts if they take two arguments,
            that return scores (B,). A `RewardTerm` has a weight, or is held out.
        sampler: if the mode or the estimator needs one.
        estimator: if the mode needs one.
        prompt: what samples are made for, in place of the model's own.
        samples: how many are made.
        unsteered: how many samples of the base model are made beside them, for the divergence and
            for rewards that are normalised; 0 for none.
        seed: every random number is derived from it.
        device: "auto", "cpu" or "cuda".
        callback: is called after every step; if it returns True, the run ends there, and has no
            samples.
        trajectory: whether the result keeps every step with its states.

    Raises:
        PartError: the arguments cannot be used, one line each; or a part cannot be loaded.
    """
    reader = _Reader(load_catalog())
    recipe = reader.recipe(
        Run(samples=samples, unsteered=unsteered, seed=seed),
        model=reader.model(model, prompt),
        mode=reader.part("mode", mode),
        sampler=reader.part("sampler", sampler),
        estimator=reader.part("estimator", estimator),
        reward=reader.rewards(rewards),
    )
    loaded = Rewards(recipe.reward, device_of(device))
    bases = sample_bases(recipe, loaded)
    (arm,) = recipe.arms()
    built = bases.normalised(build(arm, loaded, recipe.run))
    watcher = _Watcher(callback, trajectory)
    try:
        outcome = built.execute(watcher)
    except UserInterrupt:
        if not watcher.stopping():
            raise
        return ArmResult.stopped(arm.name, watcher.steps, built)
    return attrs.evolve(score(built, outcome, bases), trajectory=tuple(watcher.steps))


@attrs.define(eq=False)
class _Reader:
    """Makes parts of arguments, and keeps what is wrong with them."""

    catalog: Catalog
    errors: list[str] = attrs.field(factory=list)

    def part(self, contract: str, value: Any) -> Any:
        """The part that an argument means; None for none, and for what is none."""
        if value is None or isinstance(value, CONTRACTS[contract]):
            return value
        if isinstance(value, str | Mapping):
            return self._read(contract, read_part, contract, _table(value), self.catalog)
        name = CONTRACT_CLASSES[contract]
        self.errors.append(f"{contract}: expected a {name}, its kind or a table, got {seen(value)}")
        return None

    def model(self, value: Any, prompt: str | None) -> ModelSpec | None:
        """The model that an argument means."""
        if isinstance(value, str | Mapping):
            table = _table(value) | ({} if prompt is None else {"prompt": prompt})
            model: ModelSpec | None = self._read("model", read_part, "model", table, self.catalog)
            return model
        if isinstance(value, FlowModel):
            return GivenModel(value, prompt or "")
        try:
            if not isinstance(value, ModelSpec):
                return wrap(value, catalog=self.catalog, **({"prompt": prompt} if prompt else {}))
            own: Any = {} if prompt is None else {"prompt": prompt}
            return attrs.evolve(value, **own)
        except PartError as error:
            self.errors.append(str(error))
        except (TypeError, ValueError) as error:
            self.errors.append(f"prompt: {error}")
        return None

    def rewards(self, given: Any) -> tuple[RewardTerm, ...]:
        """The terms that an argument means."""
        named = isinstance(given, Mapping) and "kind" not in given
        if named:
            return tuple(self._terms([(name, item) for name, item in given.items()]))
        many = isinstance(given, Sequence) and not isinstance(given, str)
        return tuple(self._terms([("", item) for item in (given if many else [given])]))

    def _terms(self, items: Sequence[tuple[str, Any]]) -> Iterator[RewardTerm]:
        for place, (name, item) in enumerate(items):
            term: RewardTerm | None = None
            where = f"rewards[{name or place}]"
            if isinstance(item, RewardTerm):
                term = item
            elif isinstance(item, RewardSpec):
                term = RewardTerm(part=item)
            elif isinstance(item, Reward):
                term = RewardTerm(part=GivenReward(item))
            elif isinstance(item, str | Mapping):
                term = self._read(where, read_term, _table(item), self.catalog)
            elif callable(item) and not isinstance(item, type):
                term = RewardTerm(part=GivenReward(_Function(item)))
            else:
                text = "expected a reward, a function, a kind or a table, got"
                self.errors.append(f"{where}: {text} {seen(item)}")
            if term is not None:
                yield attrs.evolve(term, name=name) if name else term

    def recipe(self, run: Run, **parts: Any) -> Recipe:
        """The recipe of these parts; raises PartError with all that is wrong."""
        if self.errors or parts["mode"] is None:
            none = [] if self.errors else ["mode: expected one, got None"]
            raise PartError("\n".join(self.errors + none))
        recipe = Recipe(run=run, **parts | {"reward": with_unique_names(parts["reward"])})
        if errors := check_compatibility(recipe, {}, self.catalog):
            raise PartError("\n".join(f"{dotted(error.key)}: {error.text}" for error in errors))
        return recipe

    def _read(self, where: str, read: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except ConfigErrors as errors:
            for error in errors.errors:
                key = dotted(error.key)
                self.errors.append(f"{where}{'.' if key else ''}{key}: {error.text}")
            return None


def _table(value: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": value} if isinstance(value, str) else dict(value)


@final
@attrs.frozen
class GivenModel(ModelSpec):
    """A model that is built already."""

    kind: ClassVar[str] = "given"

    model: FlowModel = attrs.field(eq=id)
    prompt: str = ""

    @property
    def domain(self) -> Domain:
        """The model's."""
        return self.model.domain

    @property
    def provides(self) -> frozenset[type]:
        """What the model can do."""
        return frozenset(kind for kind in _CAPABILITIES if self.model.capability(kind) is not None)

    def build(self, device: torch.device) -> FlowModel:
        """The model; raises PartError if it is on another device."""
        if self.model.device.type != device.type:
            text = f"the model is on '{self.model.device}', and the run on '{device}'"
            raise PartError(f"device: {text}; move one of them")
        return self.model


@final
@attrs.frozen
class GivenReward(RewardSpec):
    """A reward that is built already, or a function."""

    kind: ClassVar[str] = "reward"
    differentiable: ClassVar[bool] = (
        True  # a score without a gradient is refused where one is needed
    )
    domain: ClassVar[Domain | None] = None
    range: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))

    reward: Reward = attrs.field(eq=id)

    @property
    def compares(self) -> bool:
        """Whether the reward compares samples."""
        return self.reward.capability(Compares) is not None

    def build(self, device: torch.device) -> Reward:
        """The reward."""
        return self.reward


@final
@attrs.frozen(eq=False)
class _Function(Reward):
    """A function of data, and of prompts if it takes two arguments."""

    function: Callable[..., Any]

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """What the function returns (B,): a tensor, an array or a list of numbers."""
        arguments = (data, list(prompts))[: 2 if self._takes_prompts() else 1]
        score = self.function(*arguments)
        if not isinstance(score, Tensor):
            try:
                score = torch.as_tensor(score, dtype=torch.float32, device=data.device)
            except (TypeError, ValueError, RuntimeError) as error:
                text = f"the function returned {seen(score)}, expected {len(data)} scores"
                raise ContractError(text) from error
        return score if score.dtype == torch.float64 else score.float()

    def _takes_prompts(self) -> bool:
        try:
            inspect.signature(self.function).bind(None, None)
        except TypeError:
            return False
        except ValueError:  # a function of C, which does not say
            return True
        return True


@final
class _Watcher(Observer):
    """Tells a callback how a run goes on, and keeps the steps if that is wanted."""

    def __init__(self, callback: Callable[[Step], object] | None, keep: bool) -> None:
        self.steps: list[Step] = []
        self._callback, self._keep, self._stopping = callback, keep, False

    def step(self, index: int, steps: int, state: object, info: Info) -> None:
        """Keep and tell a step."""
        if self._callback is None and not self._keep:
            return
        x = getattr(state, "x", None)
        states = x.detach().clone() if isinstance(x, Tensor) else None
        step = Step(index, steps, dict(info.numbers), states)
        if self._keep:
            self.steps.append(step)
        if self._callback is not None:
            self._stopping = self._callback(step) is True

    def due(self, index: int) -> bool:
        """No checkpoints are written."""
        return False

    def stopping(self) -> bool:
        """Whether the callback has said so."""
        return self._stopping

    def checkpoint(self, saved: dict[str, Any]) -> None:
        """No checkpoints are written."""
