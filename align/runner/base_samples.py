"""Unsteered samples of the base models: where V_0 and the rewards' statistics come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

import attrs
import torch
from loguru import logger
from torch import Tensor

from align.core.baseline import FEW, BaseRewardStats, Divergence
from align.core.mode import ReportsKL
from align.core.model import ModelSpec
from align.core.normalise import fitted
from align.core.problem import Problem
from align.core.reward import Transform, WeightedReward
from align.core.streams import Streams
from align.engine.guard import metered
from align.engine.loop import execute
from align.engine.meter import Cost, Meter
from align.modes.sampling.best_of_n import BestOfN
from align.recipe import Arm, Recipe
from align.runner.observers import NullObserver

PIECES: Final = 4  # the progress bar moves this often, if memory asks for no smaller pieces


@final
@attrs.define(eq=False)
class BaseSamples:
    """Samples of one base model; their scores are kept, they themselves are not.

    Attributes:
        model: the base model.
        flow_steps: Euler steps from noise to data.
        scores: every reward's own score (M,) by name.
        cost: of making and scoring them; no arm's cost counts it.
        r: what the arms optimise, (M,), once that is asked.
    """

    model: ModelSpec
    flow_steps: int
    scores: Mapping[str, Tensor]
    cost: Cost
    r: Tensor | None = None

    def said(self, arms: Sequence[str]) -> dict[str, Any]:
        """What is kept of them: as JSON has it, with the names of the model's arms."""
        return {
            "arms": list(arms),
            "flow_steps": self.flow_steps,
            "scores": {name: score.tolist() for name, score in self.scores.items()},
            "r": None if self.r is None else self.r.tolist(),
            "cost": attrs.asdict(self.cost),
        }


@torch.no_grad()
def draw(
    spec: ModelSpec,
    problem: Problem,
    *,
    count: int,
    flow_steps: int,
    seed: int,
    told: Callable[[int, int], None],
) -> BaseSamples:
    """Plain samples of the problem's model, scored by its rewards.

    Args:
        spec: what the model was built from.
        problem: whose prompts the samples have in turn.
        count: number of samples M; none of their random numbers is a steered sample's.
        flow_steps: Euler steps from noise to data.
        seed: of the run.
        told: is called with the number of samples made so far, and of all.
    """
    meter, pieces = Meter(), list[dict[str, Tensor]]()
    problem = metered(problem, meter)
    plain = attrs.evolve(problem, reward=WeightedReward(()))
    streams = Streams(seed, tuple(range(count)), ("unsteered",), problem.model.device)
    rows, mode = min(problem.chunk, -(-count // PIECES)), BestOfN(n=1, flow_steps=flow_steps)
    for start in range(0, count, rows):
        told(start, count)
        own = streams.rows(slice(start, start + rows))
        cond = problem.condition(own.samples)
        outcome = execute(
            mode, attrs.evolve(plain, cond=cond), own, meter=meter, observer=NullObserver()
        )
        assert outcome.x1 is not None
        pieces.append(problem.reward.each(problem.model.decode(outcome.x1), cond.prompts))
    told(count, count)
    scores = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    return BaseSamples(spec, flow_steps, scores, meter.cost(problem.model.device))


@final
@attrs.define(eq=False)
class BaseSampleStore:
    """The unsteered samples of a recipe's models, drawn when they are first needed.

    Statistics of rewards come from the model of the first arm that optimises, so that r is the
    same function for all arms; V_0 comes from each arm's own model.

    Args:
        recipe: whose arms are run in turn.
        told: is called while samples are made, as in `draw`.
    """

    recipe: Recipe
    told: Callable[[int, int], None] = lambda done, count: None
    drawn: list[BaseSamples] = attrs.field(factory=list, init=False)
    transforms: dict[str, Transform | None] | None = attrs.field(default=None, init=False)

    def normalised(self, arm: Arm, problem: Problem) -> Problem:
        """The problem whose rewards are normalised and clipped as the recipe says.

        Raises:
            PartError: a reward is the same for all unsteered samples, or there are none.
        """
        if "reward" not in arm.mode.needs:
            return problem
        if self.transforms is None:
            self.transforms = self._fitted(arm, problem)
        terms = tuple(
            attrs.evolve(term, transform=self.transforms.get(term.name))
            for term in problem.reward.terms
        )
        return attrs.evolve(problem, reward=WeightedReward(terms))

    def divergence(
        self, arm: Arm, problem: Problem, scores: Mapping[str, Tensor], state: Any
    ) -> Divergence | None:
        """How far an arm went from its model, given its samples' scores and the mode's last state.

        None for an arm that has nothing to optimise.
        """
        mode, reward = arm.mode, problem.reward
        if "reward" not in mode.needs or not reward.optimised:
            return None
        at_most = mode.path_kl(state) if isinstance(mode, ReportsKL) else None
        baseline = None
        if at_most != 0 and (base := self._of(arm, problem)):
            base.r = reward.of(base.scores)
            baseline = BaseRewardStats(base.r)
        found = Divergence.of(reward.of(scores), baseline, at_most)
        told = {name: f"{v:.4g}" for name, v in attrs.asdict(found).items() if v is not None}
        logger.info("{}: {}", arm.name, told)
        return found

    def said(self) -> list[dict[str, Any]]:
        """What is kept of each model's samples, as JSON has it."""
        arms = self.recipe.arms()
        return [one.said([a.name for a in arms if a.model == one.model]) for one in self.drawn]

    def _fitted(self, arm: Arm, problem: Problem) -> dict[str, Transform | None]:
        terms = [term for term in self.recipe.reward if not term.held_out]
        base = None
        if any(term.normalise != "none" for term in terms):
            base = self._of(arm, problem)
        scores, found = base.scores if base else {}, dict[str, Transform | None]()
        for term in terms:
            found[term.name] = fitted(term.name, term.normalise, term.clip, scores.get(term.name))
            if found[term.name]:
                logger.info("reward {}: {}", term.name, found[term.name])
        return found

    def _of(self, arm: Arm, problem: Problem) -> BaseSamples | None:
        """The samples of an arm's model; None if the recipe wants none."""
        count, model = self.recipe.run.unsteered, arm.model
        if not count or model is None:
            return None
        for one in self.drawn:
            if one.model == model:
                return one
        steps = _flow_steps([a for a in self.recipe.arms() if a.model == model])
        seed = self.recipe.run.seed
        found = draw(model, problem, count=count, flow_steps=steps, seed=seed, told=self.told)
        said = {name: f"{float(s.mean()):.4g}" for name, s in found.scores.items()}
        text = "{} unsteered samples of '{}' in {} steps: {:.1f} s, {}, {}"
        cost = found.cost
        logger.info(text, count, model.kind, steps, cost.seconds, cost.calls, said)
        self.drawn.append(found)
        return found


def _flow_steps(arms: Sequence[Arm]) -> int:
    """The most steps in which one of the arms samples plainly, else as many as is usual."""
    said = [arm.mode.flow_steps for arm in arms if isinstance(arm.mode, BestOfN)]
    return max(said, default=BestOfN().flow_steps)


def notes(recipe: Recipe, divergences: Mapping[str, Divergence | None]) -> list[str]:
    """What must be said beside the divergences of a run's arms, by name."""
    said = []
    climbing = [a.name for a in recipe.arms() if getattr(a.mode, "normalise", "") == "renorm"]
    if climbing:
        said.append(
            f"{', '.join(climbing)}: guidance_norm = 'renorm' keeps the direction of the guidance "
            "alone. That climbs the reward and does not sample p e^r, so that 'KL at least' is a "
            "bound and no estimate."
        )
    few = min((d.ess for d in divergences.values() if d and d.ess and d.ess < FEW), default=None)
    if few is not None:
        said.append(
            f"* V_0 rests on {few:.1f} of {recipe.run.unsteered} unsteered samples: it is too low, "
            "and 'KL at least' too high. Raise run.unsteered."
        )
    return said
