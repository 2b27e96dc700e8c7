"""What arms end in: samples, scores and metrics, and what results.json keeps of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import attrs
import torch
from loguru import logger
from PIL import Image
from torch import Tensor

from align.core.baseline import FEW, BaseRewardStats, Divergence
from align.core.departure import Departure
from align.core.errors import PartError
from align.core.metric import Metric, State, finish_metric, named_apart
from align.core.mode import ReportsKL
from align.core.reward import WeightedReward
from align.core.study import Findings
from align.engine.loop import Outcome
from align.engine.meter import Cost
from align.io.images import to_bytes
from align.io.numbers import rounded
from align.io.text import listed, number_of, visible
from align.recipe import Arm, Recipe, to_toml
from align.recipe.far import far_numbers
from align.report.schema import ArmNumbers, BaseNumbers, RewardRole, RunResults
from align.runner.base_samples import BaseSampleSet
from align.runner.block import Block
from align.runner.build import Built
from align.runner.notebook import as_html
from align.runner.samples import Samples


@final
@attrs.frozen(eq=False)
class Step:
    """One step of a run.

    Attributes:
        index: of the step, counted from 0.
        steps: how many there are.
        numbers: such as "reward", by name; docs/reference/recipes.md has what they are.
        x: states after it, (B, *S), or (M · B, *S) of M particles; None from a mode without any.
    """

    index: int
    steps: int
    numbers: Mapping[str, float]
    x: Tensor | None = attrs.field(default=None, repr=False)


@final
@attrs.frozen(eq=False, repr=False)
class ArmResult:
    """How one arm of a run ended.

    Attributes:
        name: of the arm.
        x1, data: clean states (B, *S), and decoded; None from a mode that makes no samples. Where
            an arm was run in several blocks, they are read from the disk when they are asked for,
            pictures with the 8 bits that they have there.
        scores: every reward's score (B,) by name, held-out ones included.
        metrics: numbers about the whole set of samples.
        cost: of the arm.
        plan: what it was said to cost before it began; None where it was not planned.
        divergence: how far its samples are from the base model's, where that was asked.
        departure: whether its samples are such as the base model makes, where that was asked.
        findings, warnings: of a study, and of a mode that has something to say.
        inputs: digests of the files that its prompts are from, by their paths.
        licence: of the model's weights, as their card states it; "" where it states none.
        base_r: r of the samples of its base model, (M,), by the weights that all arms are compared
            by, if there are any.
        factors: what a sweep varied, with the values of this arm.
        trajectory: its steps, where that was asked.
        samples: how many there are.
        kept: what each metric keeps of them.
        stored: where they lie, if they are on the disk alone.
    """

    name: str
    _x1: Tensor | None
    _data: Tensor | None
    scores: Mapping[str, Tensor]
    metrics: Mapping[str, float]
    cost: Cost
    plan: Cost | None = None
    divergence: Divergence | None = None
    departure: Departure | None = None
    findings: Findings | None = None
    warnings: tuple[str, ...] = ()
    base_r: Tensor | None = None
    inputs: Mapping[str, str] = attrs.field(factory=dict)
    licence: str = ""
    factors: Mapping[str, Any] = attrs.field(factory=dict)
    trajectory: tuple[Step, ...] = ()
    samples: int = 0
    kept: tuple[State, ...] = ()
    stored: Samples | None = None

    @property
    def x1(self) -> Tensor | None:
        """Clean states (B, *S)."""
        return self.stored.states() if self._x1 is None and self.stored else self._x1

    @property
    def data(self) -> Tensor | None:
        """Decoded samples: pictures (B, 3, H, W) in [0, 1], or vectors (B, D)."""
        return self.stored.pictures() if self._data is None and self.stored else self._data

    @classmethod
    def stopped(cls, name: str, steps: Sequence[Step], built: Built) -> ArmResult:
        """Of an arm that a callback ended: it has no samples."""
        cost = built.meter.cost(built.problem.model.device)
        return cls(name, None, None, {}, {}, cost, trajectory=tuple(steps))

    @property
    def images(self) -> list[Image.Image]:
        """The samples as pictures; raises PartError where they are none."""
        if self.data is None or self.data.dim() != 4:
            what = "it made no samples" if self.data is None else "its samples are vectors"
            raise PartError(f"'{self.name}' has no pictures: {what}")
        return [Image.fromarray(picture) for picture in to_bytes(self.data)]

    def table(self) -> list[dict[str, float]]:
        """A row a sample: its number, and its score by each reward."""
        scores = {name: values.tolist() for name, values in self.scores.items()}
        return [
            {"sample": number, **{name: values[number] for name, values in scores.items()}}
            for number in range(self.samples)
        ]

    def __repr__(self) -> str:
        count = self.samples
        means = [
            f"{name} {rounded(float(values.nanmean()))}" for name, values in self.scores.items()
        ]
        per_sample = f"{self.cost.nfe / max(1, count):g} network calls a sample"
        return (
            f"<{visible(self.name)}: {', '.join([number_of(count, 'sample'), *means, per_sample])}>"
        )

    def _repr_html_(self) -> str:
        """For notebooks."""
        data = self.data
        pictures = self.images if data is not None and data.dim() == 4 else ()
        return as_html(repr(self), self.table(), pictures)


def score(built: Built, outcome: Outcome, bases: BaseSampleSet) -> ArmResult:
    """Decode and score all samples of an arm; that is not block of its cost."""
    compared = bases.of(built.arm) is not None
    block = Block.of(built, outcome, compared=compared)
    return result_of(built.arm, block, built.problem.reward, built.weights, bases)


def result_of(
    arm: Arm,
    block: Block,
    reward: WeightedReward,
    weights: Mapping[str, float],
    bases: BaseSampleSet,
) -> ArmResult:
    """How an arm ended, by all that was made of its samples.

    Args:
        arm: as the recipe has it.
        block: all samples together.
        reward: what the arm optimises.
        weights: of the rewards as [[reward]] says them, which all arms are compared by.
        bases: samples of the base models.
    """
    base = bases.of(arm)
    result = ArmResult(
        arm.name,
        block.x1,
        block.data,
        block.scores,
        {},
        block.cost,
        samples=block.samples,
        plan=block.plan,
        findings=block.findings,
        warnings=block.notes + _missing(block.scores),
        inputs=block.inputs,
        licence=block.licence,
        factors=arm.factors or {},
        kept=block.kept,
    )
    if not block.samples:
        return result
    is_base = isinstance(arm.mode, ReportsKL) and arm.mode.is_base
    if base is not None and block.traits is not None:
        departure = Departure.of(block.traits, base.traits)
        note = None if departure is None or is_base else departure.note(block.samples)
        warnings = result.warnings if note is None else (*result.warnings, note)
        result = attrs.evolve(result, departure=departure, warnings=warnings)
    if "reward" not in arm.mode.needs or not reward.optimised or reward.compares:
        return result
    common = reward.weighed(weights)
    r, compared = reward.of(block.scores), common.of(block.scores)
    if first := bases.measured_from(arm, block.latents):
        its = bases.of(first)
        stats = BaseRewardStats(reward.of(its.scores)) if its else None
        divergence = Divergence.elsewhere(r, stats, first.name, compared=compared)
    else:
        stats = BaseRewardStats(reward.of(base.scores)) if base else None
        divergence = Divergence.of(r, stats, block.path_kl, compared=compared)
    known = attrs.asdict(divergence, filter=lambda _, value: value is not None)
    shown = {name: rounded(v) if isinstance(v, float) else v for name, v in known.items()}
    logger.info("{}: {}", arm.name, shown)
    return attrs.evolve(
        result, divergence=divergence, base_r=common.of(base.scores) if base else None
    )


def _missing(scores: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Which rewards have no score of some samples."""
    counts = {name: int(values.isnan().sum()) for name, values in scores.items()}
    return tuple(
        f"reward '{name}' has no score of {count} of {len(scores[name])} samples; its mean is over"
        " the others"
        for name, count in counts.items()
        if count
    )


@torch.no_grad()
def measure(results: Sequence[ArmResult], metrics: Sequence[Metric]) -> tuple[ArmResult, ...]:
    """Every metric on every arm; the first arm's samples are the references of the others."""
    arms = list[list[dict[str, float]]]()
    for result in results:
        arms.append([{} for _ in metrics])
        for place, metric in enumerate(metrics):
            references = results[0].kept[place] if results[0].kept else None
            compared = result is not results[0] and references is not None
            if result.kept and (compared or not metric.needs_references):
                arms[-1][place] = finish_metric(metric, result.kept[place], references)
    numbers = named_apart(arms)
    return tuple(attrs.evolve(r, metrics=n) for r, n in zip(results, numbers, strict=True))


def to_record(
    recipe: Recipe,
    results: Sequence[ArmResult],
    bases: BaseSampleSet,
    folders: Mapping[str, str],
) -> RunResults:
    """The numbers that are kept of a run.

    Args:
        recipe: of the run.
        results: of its arms, in its order.
        bases: samples of its base models.
        folders: where each arm's samples are, by the arm's name.
    """
    independent = {arm.name: arm.mode.independent for arm in recipe.arms()}
    return RunResults(
        rewards={
            term.name: RewardRole(
                weight=term.weight,
                held_out=term.held_out,
                external=term.part.external,
                price=term.part.price_per_score,
                compares=term.part.compares,
            )
            for term in recipe.reward
        },
        arms=tuple(_numbers(x, folders[x.name], independent[x.name]) for x in results),
        unsteered=_bases(recipe, results, bases),
        notes=_notes(recipe, results),
    )


def _numbers(result: ArmResult, folder: str, independent: bool) -> ArmNumbers:
    return ArmNumbers(
        name=result.name,
        folder=folder,
        samples=result.samples,
        scores=_plain(result.scores),
        metrics=dict(result.metrics),
        cost=result.cost,
        plan=result.plan,
        divergence=result.divergence,
        departure=result.departure,
        findings=result.findings,
        notes=result.warnings,
        inputs=dict(result.inputs),
        licence=result.licence,
        factors=dict(result.factors),
        independent=independent,
    )


def _bases(
    recipe: Recipe, results: Sequence[ArmResult], bases: BaseSampleSet
) -> tuple[BaseNumbers, ...]:
    """What is kept of each base model's samples; r is the same for all arms that have it."""
    numbers = []
    for base in bases.models:
        arms = [arm.name for arm in recipe.arms() if arm.model == base.model]
        r = next((x.base_r for x in results if x.name in arms and x.base_r is not None), None)
        numbers.append(
            BaseNumbers(
                arms=tuple(arms),
                flow_steps=base.flow_steps,
                scores=_plain(base.scores),
                r=None if r is None else tuple(r.tolist()),
                cost=base.cost,
            )
        )
    return tuple(numbers)


def _notes(recipe: Recipe, results: Sequence[ArmResult]) -> tuple[str, ...]:
    """What must be said about the run as a whole."""
    notes = _unmeasured(recipe.metric, results) + _not_finite(recipe, results)
    known = [(x.name, x.divergence) for x in results if x.divergence is not None]
    notes += _measured_elsewhere(known)
    if silent := [name for name, gain in known if gain.says_nothing]:
        notes += (
            f"'KL at least' says nothing of {listed(silent)}, and is shown as 0: the mean of r"
            " is so low that no divergence follows from it.",
        )
    gains = [gain for _, gain in known if not gain.says_nothing]
    few = min((gain.ess for gain in gains if gain.ess and gain.ess < FEW), default=None)
    if few is None:
        return notes
    count = recipe.run.unsteered
    enough = 2 ** math.ceil(math.log2(count * FEW / few))
    return (
        *notes,
        f"* 'KL at least' is too high here, as only about {few:.0f} of the {count} unsteered"
        " samples count in it. Scores and pictures are not affected; "
        f"run.unsteered = {enough} or more measures it better.",
    )


def _measured_elsewhere(known: Sequence[tuple[str, Divergence]]) -> tuple[str, ...]:
    """Of which arms the divergence is from the model of another, and of which it is unknown."""
    names = {
        is_known: [name for name, x in known if x.base and (x.at_least is not None) == is_known]
        for is_known in (True, False)
    }
    base = next((gain.base for _, gain in known if gain.base), "")
    notes = list[str]()
    if names[True]:
        text = f"KL of {listed(names[True])} is from the model of '{base}', which has the same"
        notes.append(f"{text} latents; from above it is not known.")
    if names[False]:
        text = f"KL of {listed(names[False])} from the model of '{base}' is not known, as"
        notes.append(f"{text} run.unsteered is 0; 64 or more measures it.")
    return tuple(notes)


def _unmeasured(metrics: Sequence[Metric], results: Sequence[ArmResult]) -> tuple[str, ...]:
    """Which metrics have nothing to measure, or to compare with."""
    notes, without = list[str](), [result.name for result in results if not result.samples]
    if metrics and without:
        notes.append(f"{listed(without)}: no metric is measured, as no samples are made.")
    compared = [metric.kind for metric in metrics if metric.needs_references]
    if compared and not results[0].samples and len(without) < len(results):
        text = f"{', '.join(compared)}: not measured, as the first arm, which samples are compared"
        notes.append(f"{text} with, makes none.")
    return tuple(notes)


def _not_finite(recipe: Recipe, results: Sequence[ArmResult]) -> tuple[str, ...]:
    """Which measured numbers are not finite, and which of the recipe's are so large or small."""
    found = list[str]()
    for result in results:
        measured = list(result.metrics.items())
        if result.findings is not None:
            measured += [(result.findings.value, point.value) for point in result.findings.points]
        names = dict.fromkeys(name for name, value in measured if not math.isfinite(value))
        found += [f"{name} of '{result.name}'" for name in names]
    if not found:
        return ()
    far = far_numbers(to_toml(recipe))
    text = f"{', '.join(found)}: not finite, as no float holds what was measured"
    return (f"{text}; {far}." if far else f"{text}.",)


def _plain(scores: Mapping[str, Tensor]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(score.tolist()) for name, score in scores.items()}
