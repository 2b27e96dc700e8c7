"""The parts of a recipe, loaded and put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import attrs
import torch
from torch import Tensor

from align.core.attribution import attributed, made
from align.core.chunks import Chunks
from align.core.errors import PartError
from align.core.model import ClassConditional, FlowModel, NoModel, build_model
from align.core.problem import Problem
from align.core.prompts import expand_prompt
from align.core.reward import LATENT, HasReferenceImages, Reward, Term, WeightedReward
from align.core.streams import Streams
from align.engine.guard import GuardedModel, GuardedReward
from align.engine.loop import Earlier, Observer, Outcome, execute
from align.engine.memory import DeviceMemory
from align.engine.meter import Meter
from align.engine.offload import Offloaded, networks
from align.io.prompt_file import PromptFile
from align.recipe import Arm, RewardTerm, Run
from align.training import parallel


def device_of(name: str) -> torch.device:
    """The device that a recipe asks for; "auto" is CUDA when there is one.

    Raises:
        PartError: CUDA is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise PartError("run.device: torch sees no CUDA device here; use 'auto' or 'cpu'")
    if available and name != "cpu" and not parallel.has_own_gpu():
        raise PartError(
            f"run.device: each process needs a CUDA device of its own, and torch sees"
            f" {torch.cuda.device_count()}; start fewer processes or use 'cpu'"
        )
    return torch.device(("cuda" if available else "cpu") if name == "auto" else name)


@final
@attrs.define(eq=False)
class Rewards:
    """The rewards of a run, loaded when an arm first needs them: equal ones once, for all arms.

    Attributes:
        terms: of the recipe.
        device: where they score.
        missing: makes what stands in for a reward that cannot be loaded, of the reason; without it
            that is an error.
    """

    terms: Sequence[RewardTerm]
    device: torch.device
    missing: Callable[[str], Reward] | None = None
    _loaded: tuple[Reward, ...] | None = attrs.field(default=None, init=False)

    def loaded(self) -> tuple[Reward, ...]:
        """One for each term; raises PartError when one cannot be loaded."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> tuple[Reward, ...]:
        distinct = list[tuple[RewardTerm, Reward]]()
        for term in self.terms:
            if not any(_alike(term, other) for other, _ in distinct):
                distinct.append((term, self._built_or_missing(term)))
        return tuple(
            next(reward for other, reward in distinct if _alike(term, other)) for term in self.terms
        )

    def _built_or_missing(self, term: RewardTerm) -> Reward:
        try:
            return self._built(term)
        except PartError as error:
            if self.missing is None:
                raise
            return self.missing(str(error))

    def _built(self, term: RewardTerm) -> Reward:
        """A term's reward, offloaded if it says so."""
        who = f"reward '{term.name}': build"
        reward = made(who, lambda: term.part.build(self.device), Reward)
        if not term.offload:
            return reward
        if not networks(reward):
            text = f"reward '{term.name}' holds no networks that could wait on the CPU"
            raise PartError(f"{text}; take 'offload' out")
        return reward if self.device.type == "cpu" else Offloaded.of(reward, self.device)


def _alike(term: RewardTerm, other: RewardTerm) -> bool:
    """Whether two terms can share what is loaded."""
    return term.part == other.part and term.offload == other.offload


@final
@attrs.frozen(eq=False)
class Built:
    """An arm that is ready to run.

    Attributes:
        arm: as the recipe has it.
        problem: its parts, loaded and under guard.
        streams: of its samples.
        meter: what its guards count with.
        inputs: digests of the files that its prompts are from, by their paths.
        weights: of the rewards as [[reward]] says them, which all arms are compared by.
    """

    arm: Arm
    problem: Problem
    streams: Streams
    meter: Meter
    inputs: Mapping[str, str] = attrs.field(factory=dict)
    weights: Mapping[str, float] = attrs.field(factory=dict)

    def execute(
        self,
        observer: Observer,
        *,
        saved: dict[str, Any] | None = None,
        last: Earlier | None = None,
    ) -> Outcome:
        """Run the arm's mode; the clock starts here, as loading is not part of the cost."""
        self.meter.begin()
        return execute(
            self.arm.mode,
            self.problem,
            self.streams,
            meter=self.meter,
            observer=observer,
            saved=saved,
            last=last,
        )

    def with_samples(self, samples: range) -> Built:
        """The arm with samples of these numbers, of whose cost nothing is counted yet."""
        self.meter.forget()
        streams = self.streams.numbered(samples.start, len(samples))
        if streams == self.streams:
            return self
        problem = attrs.evolve(self.problem, cond=self.problem.condition(samples))
        return attrs.evolve(self, problem=problem, streams=streams)

    def reference_images(self) -> dict[str, Tensor]:
        """Pictures (C, H, W) that rewards have; where a name is taken, with the reward's."""
        pictures: dict[str, Tensor] = {}
        for term in self.problem.reward.terms:
            reward = term.reward.capability(HasReferenceImages)
            with attributed(f"reward '{term.name}': pictures"):
                for name, picture in reward.pictures().items() if reward else ():
                    pictures[f"{name} {term.name}" if name in pictures else name] = picture
        return pictures


def build(
    arm: Arm,
    rewards: Rewards,
    run: Run,
    model: FlowModel | None = None,
    samples: range | None = None,
) -> Built:
    """Load an arm's model and the rewards, and put them under guard.

    Args:
        arm: of the recipe.
        rewards: of the recipe; their device is the model's too.
        run: says the seed, the number of samples and the most rows that are in memory at once.
        model: of the arm, where it is loaded already.
        samples: numbers of those that are made; all if None.

    Raises:
        PartError: a part cannot be loaded.
        PromptError: the model cannot follow its prompt.
    """
    meter, device = Meter(), rewards.device
    numbers = range(run.samples) if samples is None else samples
    streams = Streams(run.seed, tuple(numbers), device=device)
    if arm.model is None:
        return Built(arm, Problem(NoModel()), streams, meter)
    inner = model or build_model(arm.model, device)
    with attributed(f"mode '{arm.mode.kind}': check_model"):
        arm.mode.check_model(inner)
    # Kernels are busy with so many rows; where they do not fit into memory, fewer are taken.
    usual = {"image": 64 if device.type == "cpu" else 256, "vector": 1 << 20}[inner.domain]
    chunks = Chunks(run.chunk or usual, DeviceMemory(device))
    guarded = GuardedModel(inner, arm.model.kind, meter, chunks)
    conditional = inner.capability(ClassConditional)
    classes = conditional.classes if conditional else ()
    file = PromptFile.read(arm.model.prompts) if arm.model.prompts else None
    if file:
        file.require(run.samples)
    prompts = file.prompts if file else expand_prompt(arm.model.prompt, classes)
    problem = Problem(guarded, prompts=prompts, part=arm.model)
    cond = problem.condition(numbers)
    terms = tuple(
        Term(
            name=term.name,
            reward=GuardedReward(
                reward,
                term.name,
                meter,
                chunks,
                term.part.differentiable,
                term.part.dimension,
                term.part.may_miss,
                latent=term.part.domain == LATENT,
            ),
            weight=term.weight,
            held_out=term.held_out,
            latent=term.part.domain == LATENT,
            compares=term.part.compares,
        )
        for term, reward in zip(rewards.terms, rewards.loaded(), strict=True)
    )
    problem = attrs.evolve(
        problem,
        reward=WeightedReward(terms).weighed(arm.weights or {}),
        sampler=arm.sampler,
        estimator=arm.estimator,
        cond=cond,
        chunks=chunks,
    )
    inputs = {file.path: file.digest} if file else {}
    weights = {term.name: term.weight for term in rewards.terms}
    return Built(arm, problem, streams, meter, inputs, weights)
