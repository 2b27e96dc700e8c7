"""Unsteered samples of the base models: where V_0 and the rewards' statistics come from."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, final

import attrs
import cattrs
import torch
from loguru import logger
from torch import Tensor

from align.core.baseline import deviation
from align.core.departure import Traits
from align.core.errors import AlignError
from align.core.mode import ReportsKL
from align.core.model import Condition, ModelSpec
from align.core.normalise import fitted
from align.core.reward import Term, Transform, WeightedReward
from align.core.streams import Streams
from align.core.study import Study
from align.engine.loop import execute
from align.engine.meter import Cost
from align.io.tensors import packed, unpacked
from align.io.text import visible
from align.modes.sampling.best_of_n import BestOfN
from align.recipe import Arm, Recipe
from align.runner.block import latents_of, total_cost
from align.runner.build import Built, Rewards, build
from align.runner.kept import Drawn, Scored, Shelf, Shelves
from align.runner.observers import NullObserver

OnProgress: TypeAlias = Callable[[int, int], None]
"""Is called with the number of samples made so far, and of all."""

_SAME: Final = 0.02  # differences of data that half precision makes
_ASKED: Final = frozenset({"prompt", "prompts", "negative_prompt"})

PIECES: Final = 4  # the progress bar moves this often, if memory asks for no smaller pieces


@final
@attrs.frozen(eq=False)
class BaseSamples:
    """What is known of samples of one base model.

    Attributes:
        model: the base model.
        flow_steps: Euler steps from noise to data.
        scores: every reward's own score (M,) by name.
        cost: of making and scoring them, whenever that was; no arm's cost counts it.
        traits: what arms' samples are compared with.
        origin: says where they are from, if they were not drawn in this run.
        latents: what the model makes of fixed states, as `latents_of` says.
    """

    model: ModelSpec
    flow_steps: int
    scores: Mapping[str, Tensor]
    cost: Cost
    traits: Traits
    origin: str = ""
    latents: tuple[float, ...] = ()


@final
@attrs.frozen(eq=False)
class BaseSampleSet:
    """What a run knows of its base models before the first arm runs.

    Attributes:
        models: samples of each base model that something needs them of.
        transforms: f of each optimised reward by name, from the first optimising arm's model, so
            that r is the same function for all arms.
        first: the first optimising arm of the run.
    """

    models: tuple[BaseSamples, ...] = ()
    transforms: Mapping[str, Transform | None] = attrs.field(factory=dict)
    first: Arm | None = None

    def normalised(self, built: Built) -> Built:
        """The arm with its rewards normalised and clipped as the recipe says."""
        if "reward" not in built.arm.mode.needs:
            return built
        terms = self.transformed(built.problem.reward.terms)
        problem = attrs.evolve(built.problem, reward=WeightedReward(terms))
        return attrs.evolve(built, problem=problem)

    def transformed(self, terms: Sequence[Term]) -> tuple[Term, ...]:
        """Terms of the recipe with their transforms."""
        return tuple(attrs.evolve(t, transform=self.transforms.get(t.name)) for t in terms)

    def of(self, arm: Arm) -> BaseSamples | None:
        """The samples of an arm's own model; None where there are none."""
        return next((base for base in self.models if base.model == arm.model), None)

    def measured_from(self, arm: Arm, latents: Sequence[float]) -> Arm | None:
        """The arm whose model another arm's divergence is from; None for the arm's own model.

        That is the first arm, for another model over the same latents, such as one that was tuned
        from it. Where there are no samples to tell, models that make the same data count as such.

        Args:
            arm: the other arm.
            latents: what its model makes of fixed states, as `latents_of` says.
        """
        first = self.first
        if first is None or not _alike_at_sight(first.model, arm.model):
            return None
        base = self.of(first)
        return first if base is None or _close(base.latents, latents) else None


def sample_bases(
    recipe: Recipe,
    rewards: Rewards,
    on_progress: OnProgress = lambda done, count: None,
    shelves: Shelves | None = None,
) -> BaseSampleSet:
    """Sample every base model that something needs samples of, once, and fit the transforms.

    The model of the first optimising arm is sampled where a reward is normalised, and that of
    every arm whose divergence is estimated from them.

    Args:
        recipe: the recipe.
        rewards: its rewards.
        on_progress: is called as samples are made.
        shelves: where samples are kept from run to run; None for nowhere.

    Raises:
        PartError: a reward is the same for all unsteered samples, or there are none.
    """
    models = list[BaseSamples]()
    for arm in arms_with_bases(recipe):
        built = build(arm, rewards, recipe.run)
        models.append(_sampled(built, recipe, on_progress, shelves))
    return fitted_to(recipe, models)


def fitted_to(recipe: Recipe, models: Sequence[BaseSamples]) -> BaseSampleSet:
    """Samples of the base models with the transforms that are fitted to them.

    Raises:
        PartError: a reward is the same for all unsteered samples, or there are none.
    """
    optimising, terms = _optimising(recipe), [t for t in recipe.reward if not t.held_out]
    if not optimising or not terms:
        return BaseSampleSet()
    first = next((base for base in models if base.model == optimising[0].model), None)
    scores = first.scores if first else {}
    transforms = {
        term.name: fitted(term.name, term.normalise, term.clip, scores.get(term.name))
        for term in terms
    }
    for name, transform in transforms.items():
        if transform is not None:
            logger.info("reward {}: {}", name, transform)
    return BaseSampleSet(tuple(models), transforms, optimising[0])


def to_file(bases: BaseSampleSet) -> bytes:
    """What is known of the samples of each base model, for other processes of the run."""
    tensors, facts = dict[str, Tensor](), list[dict[str, Any]]()
    for place, base in enumerate(bases.models):
        traits = {"norm": base.traits.norm, "residual": base.traits.residual}
        every = {**traits, **{f"score {name}": score for name, score in base.scores.items()}}
        tensors |= {f"{place} {name}": tensor for name, tensor in every.items()}
        facts.append(
            {
                "flow_steps": base.flow_steps,
                "cost": cattrs.unstructure(base.cost),
                "scores": list(base.scores),
                "origin": base.origin,
                "latents": list(base.latents),
            }
        )
    return packed(tensors, {"models": facts})


def from_file(recipe: Recipe, content: bytes) -> BaseSampleSet | None:
    """The samples that `to_file` has written for the same recipe; None if they are damaged."""
    arms, found = arms_with_bases(recipe), unpacked(content)
    if found is None or len(found[0]["models"]) != len(arms):
        return None
    facts, tensors = found
    models = [
        BaseSamples(
            model=arm.model,
            flow_steps=table["flow_steps"],
            scores={name: tensors[f"{place} score {name}"] for name in table["scores"]},
            cost=cattrs.structure(table["cost"], Cost),
            traits=Traits(tensors[f"{place} norm"], tensors[f"{place} residual"]),
            origin=table["origin"],
            latents=tuple(table["latents"]),
        )
        for place, (arm, table) in enumerate(zip(arms, facts["models"], strict=True))
        if arm.model is not None
    ]
    return fitted_to(recipe, models)


def arms_with_bases(recipe: Recipe) -> tuple[Arm, ...]:
    """The first arm of each base model that something needs samples of."""
    terms = [term for term in recipe.reward if not term.held_out]
    optimising = _optimising(recipe) if terms and recipe.run.unsteered else []
    needed = [arm for arm in optimising if _is_compared(arm)]
    if optimising and any(term.normalise != "none" for term in terms):
        needed.insert(0, optimising[0])
    if any(_alike_at_sight(optimising[0].model, arm.model) for arm in optimising):
        needed.insert(0, optimising[0])
    first = list[Arm]()
    for arm in needed:
        if arm.model is not None and not any(other.model == arm.model for other in first):
            first.append(arm)
    return tuple(first)


def flow_steps_of(recipe: Recipe, model: ModelSpec | None) -> int:
    """The most steps in which an arm of a model samples plainly, else as many as is usual."""
    return _flow_steps([arm for arm in recipe.arms() if arm.model == model])


def _alike_at_sight(first: ModelSpec | None, other: ModelSpec | None) -> bool:
    """Whether another model may be one that was tuned from the first: it makes the same data."""
    if first is None or other is None or first == other or first.domain != other.domain:
        return False
    shapes = {first.state_shape, other.state_shape} - {None}
    return len(shapes) < 2 and _asks(first) != _asks(other)


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two models make the same of fixed states, up to what half precision makes of it."""
    return len(one) == len(other) and all(
        abs(a - b) <= _SAME for a, b in zip(one, other, strict=True)
    )


def _asks(model: ModelSpec) -> dict[str, object]:
    """A model's options without what samples are made for."""
    options = attrs.asdict(model, recurse=False)
    return {"kind": model.kind} | {k: v for k, v in options.items() if k not in _ASKED}


def _optimising(recipe: Recipe) -> list[Arm]:
    return [arm for arm in recipe.arms() if "reward" in arm.mode.needs]


@torch.no_grad()
def draw(
    built: Built,
    recipe: Recipe,
    flow_steps: int,
    on_progress: OnProgress,
    shelf: Shelf | None = None,
) -> BaseSamples:
    """Plain samples of an arm's model, scored by its rewards; those that are kept are taken.

    Args:
        built: the arm; its prompts are those of the samples in turn.
        recipe: says the number of samples and the seed; no steered sample shares their noise.
        flow_steps: Euler steps from noise to data.
        on_progress: is called as samples are made.
        shelf: where samples are kept from run to run; None for nowhere.
    """
    assert built.arm.model is not None
    problem, count, kind = built.problem, recipe.run.unsteered, built.arm.model.kind
    notice, origin = logger.bind(notice=True), ""
    streams = Streams(recipe.run.seed, tuple(range(count)), ("unsteered",), problem.model.device)
    drawing = _Drawing(built, streams, BestOfN(n=1, flow_steps=flow_steps))
    states, scored = drawing.kept(shelf) if shelf else (None, {})
    missing = [term for term in problem.reward.scoring if term.name not in scored]
    if states is None:
        nfe = count * flow_steps * problem.model.rows_per_velocity
        text = "{} unsteered samples of '{}' are drawn first, which takes {} network calls"
        notice.info(text, count, kind, nfe)
        drawn, anew = drawing.make(None, missing, on_progress)
    else:
        origin = f"from the cache (drawn {states.when} for {visible(states.recipe)})"
        notice.info("{} unsteered samples of '{}' {}", count, kind, origin)
        drawn, anew = drawing.make(states, missing, on_progress) if missing else (states, {})
    on_progress(count, count)
    if shelf and (anew or states is None):
        shelf.keep(None if states else drawn, anew)
    scored |= anew
    return BaseSamples(
        model=built.arm.model,
        flow_steps=flow_steps,
        scores={term.name: scored[term.name].scores for term in problem.reward.scoring},
        cost=total_cost([drawn.cost, *(one.cost for one in scored.values())]),
        traits=drawn.traits,
        origin=origin,
        latents=latents_of(problem.model),
    )


@final
@attrs.frozen(eq=False)
class _Drawing:
    """Base samples that are being drawn or looked up.

    Attributes:
        built: the arm.
        streams: of all samples.
        mode: makes them.
    """

    built: Built
    streams: Streams
    mode: BestOfN

    def kept(self, shelf: Shelf) -> tuple[Drawn | None, dict[str, Scored]]:
        """What is kept of the samples, as far as it is what the parts make now."""
        problem = self.built.problem
        states = shelf.drawn(problem.model.device)
        if states is None:
            return None, {}
        found = {t.name: shelf.scored(t.name, states.x1.device) for t in problem.reward.scoring}
        scored = {name: one for name, one in found.items() if one is not None}
        changed = self._changed(states, scored)
        for who in changed:
            logger.info("what is kept of {} is not what it makes now, and is made anew", who)
        if "the model" in changed:
            shelf.forget()
            return None, {}
        return states, {n: one for n, one in scored.items() if f"reward '{n}'" not in changed}

    def make(
        self, states: Drawn | None, terms: Sequence[Term], on_progress: OnProgress
    ) -> tuple[Drawn, dict[str, Scored]]:
        """Draw samples, unless there are `states`, and score them by these rewards.

        Each sample is decoded once, for all of them.
        """
        problem, meter, count = self.built.problem, self.built.meter, len(self.streams.samples)
        rows = min(problem.chunks.cap, -(-count // PIECES))
        seconds, before = _Seconds(), Counter(meter.calls)
        made, scores = (
            list[tuple[Tensor, Condition, Streams]](),
            defaultdict[str, list[Tensor]](list),
        )
        for start in range(0, count, rows):
            on_progress(start, count)
            piece = self.streams.rows(slice(start, start + rows))
            cond = problem.condition(piece.samples)
            with seconds.of("the states"):
                x1 = states.x1[start : start + rows] if states else self._states(cond, piece)
                data = problem.model.decode(x1)
            for term in terms:
                with seconds.of(f"reward {term.name}"):
                    scores[term.name].append(term.score(x1, data, cond.prompts))
            made.append((x1, cond, piece))
        memory = meter.cost(problem.model.device).memory
        scored = {
            name: Scored(
                torch.cat(pieces),
                Cost(
                    reward_calls={name: count},
                    flops=int(meter.rewards.row_flops[name] * count),
                    seconds=seconds[f"reward {name}"],
                    memory=memory,
                ),
            )
            for name, pieces in scores.items()
        }
        if states:
            return states, scored
        calls = Counter(meter.calls) - before
        cost = Cost(
            calls=dict(calls),
            flops=int(sum(meter.row_flops[part] * number for part, number in calls.items())),
            seconds=seconds["the states"],
            memory=memory,
        )
        traits = Traits.joined([Traits.of(problem.model, *piece) for piece in made])
        return Drawn(torch.cat([x1 for x1, _, _ in made]), traits, cost), scored

    def _states(self, cond: Condition, streams: Streams) -> Tensor:
        """Clean states of some of the samples."""
        problem = attrs.evolve(self.built.problem, cond=cond, reward=WeightedReward(()))
        outcome = execute(
            self.mode, problem, streams, meter=self.built.meter, observer=NullObserver()
        )
        assert outcome.x1 is not None
        return outcome.x1

    def _changed(self, states: Drawn, scored: Mapping[str, Scored]) -> list[str]:
        """Which parts do not make of two of the samples what is kept of them, rounding aside.

        Of the model that is asked by the velocity residual. It shows what no digest can: a file
        that somebody's code reads without naming it.
        """
        problem, count = self.built.problem, len(self.streams.samples)
        if states.x1.shape != (count, *problem.model.shape):
            return ["the model"]
        rows = torch.tensor([0, count - 1])
        streams, x1 = self.streams.rows(rows), states.x1[rows.to(states.x1.device)]
        kept = {"the model": states.traits.residual}
        try:
            cond = problem.condition(streams.samples)
            now = {"the model": Traits.of(problem.model, x1, cond, streams).residual}
            data = problem.model.decode(x1) if scored else x1
            for term in problem.reward.terms:
                if term.name in scored:
                    who = f"reward '{term.name}'"
                    kept[who] = scored[term.name].scores
                    now[who] = term.score(x1, data, cond.prompts)
        except AlignError:  # which is raised again where all samples are made
            return ["the model"]
        return [who for who, numbers in now.items() if not _alike(numbers, kept[who], rows)]


def _alike(now: Tensor, kept: Tensor, rows: Tensor) -> bool:
    """Whether numbers of some rows are those that are kept, as far as rounding lets them be."""
    kept, now = kept.double().cpu(), now.double().cpu()
    allowed = 0.005 * float(kept.abs().max()) + 0.01 * deviation(kept)
    return bool(torch.isclose(now, kept[rows], rtol=0, atol=allowed).all())


@final
class _Seconds(defaultdict[str, float]):
    """How long things took, added up by their names."""

    def __init__(self) -> None:
        super().__init__(float)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add the time until the context is left."""
        began = time.perf_counter()
        yield
        self[name] += time.perf_counter() - began


def _sampled(
    built: Built, recipe: Recipe, on_progress: OnProgress, shelves: Shelves | None
) -> BaseSamples:
    """Samples of an arm's model, in as many steps as its arms take; the log has what they cost."""
    assert built.arm.model is not None
    model, count = built.arm.model, recipe.run.unsteered
    flow_steps = _flow_steps([arm for arm in recipe.arms() if arm.model == model])
    shelf = shelves.of(built, recipe, {"flow_steps": flow_steps}) if shelves else None
    base = draw(built, recipe, flow_steps, on_progress, shelf)
    means = {name: f"{float(score.mean()):.4g}" for name, score in base.scores.items()}
    text = "{} unsteered samples of '{}' in {} steps{}: {:.1f} s, {}, {}, {}"
    cost, whence = base.cost, f", {base.origin}" if base.origin else ""
    logger.info(
        text,
        count,
        model.kind,
        flow_steps,
        whence,
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
