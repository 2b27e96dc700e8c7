"""Unsteered samples of the base models: where V_0 and the rewards' statistics come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias, final

import attrs
import torch
from loguru import logger
from torch import Tensor

from align.core.baseline import BaseRewardStats
from align.core.departure import Traits
from align.core.mode import ReportsKL
from align.core.model import Condition, ModelSpec
from align.core.normalise import fitted
from align.core.reward import Transform, WeightedReward
from align.core.streams import Streams
from align.core.study import Study
from align.engine.loop import execute
from align.engine.meter import Cost
from align.modes.sampling.best_of_n import BestOfN
from align.recipe import Arm, Recipe
from align.runner.build import Built, Rewards, build
from align.runner.observers import NullObserver

OnProgress: TypeAlias = Callable[[int, int], None]
"""Is called with the number of samples made so far, and of all."""

PIECES: Final = 4  # the progress bar moves this often, if memory asks for no smaller pieces


@final
@attrs.frozen(eq=False)
class BaseSamples:
    """Samples of one base model; their scores are kept, they themselves are not.

    Attributes:
        model: the base model.
        flow_steps: Euler steps from noise to data.
        scores: every reward's own score (M,) by name.
        cost: of making and scoring them; no arm's cost counts it.
        traits: what arms' samples are compared with.
    """

    model: ModelSpec
    flow_steps: int
    scores: Mapping[str, Tensor]
    cost: Cost
    traits: Traits


@final
@attrs.frozen(eq=False)
class BaseSampleSet:
    """What a run knows of its base models before the first arm runs.

    Attributes:
        models: samples of each base model that something needs them of.
        transforms: f of each optimised reward by name, from the first optimising arm's model, so
            that r is the same function for all arms.
    """

    models: tuple[BaseSamples, ...] = ()
    transforms: Mapping[str, Transform | None] = attrs.field(factory=dict)

    def normalised(self, built: Built) -> Built:
        """The arm with its rewards normalised and clipped as the recipe says."""
        if "reward" not in built.arm.mode.needs:
            return built
        terms = tuple(
            attrs.evolve(term, transform=self.transforms.get(term.name))
            for term in built.problem.reward.terms
        )
        problem = attrs.evolve(built.problem, reward=WeightedReward(terms))
        return attrs.evolve(built, problem=problem)

    def stats(self, built: Built) -> BaseRewardStats | None:
        """r of the samples of an arm's own model; None where there are no such samples."""
        base = self.of(built)
        return BaseRewardStats(built.problem.reward.of(base.scores)) if base else None

    def of(self, built: Built) -> BaseSamples | None:
        """The samples of an arm's own model; None where there are none."""
        return next((base for base in self.models if base.model == built.arm.model), None)


def sample_bases(
    recipe: Recipe, rewards: Rewards, on_progress: OnProgress = lambda done, count: None
) -> BaseSampleSet:
    """Sample every base model that something needs samples of, once, and fit the transforms.

    The model of the first optimising arm is sampled where a reward is normalised, and that of
    every arm whose divergence is estimated from them.

    Raises:
        PartError: a reward is the same for all unsteered samples, or there are none.
    """
    optimising = [arm for arm in recipe.arms() if "reward" in arm.mode.needs]
    terms = [term for term in recipe.reward if not term.held_out]
    if not optimising or not terms:
        return BaseSampleSet()
    needed = [arm for arm in optimising if _is_compared(arm)]
    if any(term.normalise != "none" for term in terms):
        needed.insert(0, optimising[0])
    models = list[BaseSamples]()
    for arm in needed if recipe.run.unsteered else ():
        if arm.model is not None and not any(base.model == arm.model for base in models):
            models.append(_sampled(arm.model, build(arm, rewards, recipe.run), recipe, on_progress))
    first = next((base for base in models if base.model == optimising[0].model), None)
    scores = first.scores if first else {}
    transforms = {
        term.name: fitted(term.name, term.normalise, term.clip, scores.get(term.name))
        for term in terms
    }
    for name, transform in transforms.items():
        if transform is not None:
            logger.info("reward {}: {}", name, transform)
    return BaseSampleSet(tuple(models), transforms)


@torch.no_grad()
def draw(built: Built, recipe: Recipe, flow_steps: int, on_progress: OnProgress) -> BaseSamples:
    """Plain samples of an arm's model, scored by its rewards.

    Args:
        built: the arm; its prompts are those of the samples in turn.
        recipe: says the number of samples and the seed; no steered sample shares their noise.
        flow_steps: Euler steps from noise to data.
        on_progress: is called as samples are made.
    """
    assert built.arm.model is not None
    problem, meter, count = built.problem, built.meter, recipe.run.unsteered
    plain = attrs.evolve(problem, reward=WeightedReward(()))
    streams = Streams(recipe.run.seed, tuple(range(count)), ("unsteered",), problem.model.device)
    rows, mode = min(problem.chunk, -(-count // PIECES)), BestOfN(n=1, flow_steps=flow_steps)
    pieces, states = list[dict[str, Tensor]](), list[tuple[Tensor, Condition, Streams]]()
    meter.begin()
    for start in range(0, count, rows):
        on_progress(start, count)
        piece = streams.rows(slice(start, start + rows))
        cond = problem.condition(piece.samples)
        outcome = execute(
            mode, attrs.evolve(plain, cond=cond), piece, meter=meter, observer=NullObserver()
        )
        assert outcome.x1 is not None
        pieces.append(problem.reward.each(problem.model.decode(outcome.x1), cond.prompts))
        states.append((outcome.x1, cond, piece))
    on_progress(count, count)
    scores = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    cost = meter.cost(problem.model.device)
    traits = Traits.joined([Traits.of(problem.model, *state) for state in states])
    return BaseSamples(built.arm.model, flow_steps, scores, cost, traits)


def _sampled(
    model: ModelSpec, built: Built, recipe: Recipe, on_progress: OnProgress
) -> BaseSamples:
    """Samples of a model, in as many steps as its arms take; the log has what they cost."""
    flow_steps = _flow_steps([arm for arm in recipe.arms() if arm.model == model])
    base = draw(built, recipe, flow_steps, on_progress)
    means = {name: f"{float(score.mean()):.4g}" for name, score in base.scores.items()}
    text = "{} unsteered samples of '{}' in {} steps: {:.1f} s, {}, {}, {}"
    cost = base.cost
    logger.info(
        text,
        recipe.run.unsteered,
        model.kind,
        flow_steps,
        cost.seconds,
        cost.calls,
        cost.reward_calls,
        means,
    )
    return base


def _is_compared(arm: Arm) -> bool:
    """Whether an arm makes samples that may differ from the base model's; a study makes none."""
    is_base = isinstance(arm.mode, ReportsKL) and arm.mode.is_base
    return not is_base and not isinstance(arm.mode, Study)


def _flow_steps(arms: Sequence[Arm]) -> int:
    """The most steps in which one of the arms samples plainly, else as many as is usual."""
    steps = [arm.mode.flow_steps for arm in arms if isinstance(arm.mode, BestOfN)]
    return max(steps, default=BestOfN().flow_steps)
