"""The parts of a recipe, loaded and put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import attrs
import torch

from align.core.model import ClassConditional, NoModel
from align.core.problem import Problem
from align.core.prompts import expand_prompt
from align.core.reward import Reward, Term, WeightedReward
from align.engine.guard import GuardedModel, GuardedReward
from align.engine.meter import Meter
from align.engine.offload import Offloaded, networks
from align.errors import PartError
from align.recipe import Arm, RewardTerm
from align.training import parallel


def device_of(name: str) -> torch.device:
    """The device that a recipe asks for; "auto" is CUDA when there is one.

    Raises:
        PartError: CUDA is asked for and there is none.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise PartError("run.device: torch sees no CUDA device here; use 'auto' or 'cpu'")
    if there and name != "cpu" and not parallel.has_own_gpu():
        raise PartError(
            f"run.device: each process needs a CUDA device of its own, and torch sees"
            f" {torch.cuda.device_count()}; start fewer processes or use 'cpu'"
        )
    return torch.device(("cuda" if there else "cpu") if name == "auto" else name)


@final
@attrs.define(eq=False)
class Rewards:
    """The rewards of a run, loaded when an arm first needs them: equal ones once, for all arms."""

    terms: Sequence[RewardTerm]
    device: torch.device
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
                distinct.append((term, self._built(term)))
        return tuple(
            next(own for other, own in distinct if _alike(term, other)) for term in self.terms
        )

    def _built(self, term: RewardTerm) -> Reward:
        """A term's reward, offloaded if it says so."""
        reward = term.part.build(self.device)
        if not term.offload:
            return reward
        if not networks(reward):
            text = f"reward '{term.name}' holds no networks that could wait on the CPU"
            raise PartError(f"{text}; take 'offload' out")
        return reward if self.device.type == "cpu" else Offloaded.of(reward, self.device)


def _alike(one: RewardTerm, other: RewardTerm) -> bool:
    """Whether two terms can share what is loaded."""
    return one.part == other.part and one.offload == other.offload


def build(
    arm: Arm, rewards: Rewards, device: torch.device, meter: Meter, *, samples: int, chunk: int = 0
) -> Problem:
    """Load model and rewards, and put them under guard.

    Raises:
        PartError: a part cannot be loaded.
        PromptError: the model cannot follow its prompt.
    """
    if arm.model is None:
        return Problem(NoModel())
    inner = arm.model.build(device)
    # What fits depends on the network; this is a size at which kernels are busy and memory small.
    rows = chunk or {"image": 64 if device.type == "cpu" else 256, "vector": 1 << 20}[inner.domain]
    model = GuardedModel(inner, arm.model.kind, meter, rows)
    conditional = inner.capability(ClassConditional)
    classes = conditional.classes if conditional else ()
    problem = Problem(model, prompts=expand_prompt(arm.model.prompt, classes))
    cond = problem.condition(range(samples))
    terms = tuple(
        Term(
            name=term.name,
            reward=GuardedReward(reward, term.name, meter, rows),
            weight=term.weight,
            held_out=term.held_out,
        )
        for term, reward in zip(rewards.terms, rewards.loaded(), strict=True)
    )
    # A way back keeps everything on its way: about four times as much a row.
    back = chunk or rows // 4
    return attrs.evolve(
        problem,
        reward=WeightedReward(terms),
        sampler=arm.sampler,
        estimator=arm.estimator,
        cond=cond,
        chunk=back,
    )
