"""What arms end in: samples, scores and metrics, and what results.json keeps of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import attrs
import torch
from loguru import logger
from PIL import Image
from torch import Tensor

from align.core.attribution import attributed
from align.core.baseline import FEW, Divergence
from align.core.departure import Departure, Traits
from align.core.errors import AlignError, PartError
from align.core.metric import Metric, compute_metric
from align.core.mode import HasWarnings, ReportsKL
from align.core.model import Licensed
from align.core.path import times_of
from align.core.problem import Problem
from align.core.prompts import ReadsPrompts, prompt_notes
from align.core.study import Findings, Study
from align.engine.guard import guarded
from align.engine.loop import Outcome
from align.engine.meter import Cost
from align.io.images import to_bytes
from align.io.numbers import rounded
from align.io.text import visible
from align.recipe import Recipe, to_toml
from align.recipe.far import far_numbers
from align.report.schema import ArmNumbers, BaseNumbers, RewardRole, RunResults
from align.runner.base_samples import BaseSampleSet
from align.runner.build import Built
from align.runner.notebook import as_html


@final
@attrs.frozen(eq=False)
class Step:
    """One step of a run.

    Attributes:
        index: of the step, counted from 0.
        steps: how many there are.
        numbers: such as "reward", by name; docs/recipes.md has what they are.
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
        x1, data: clean states (B, *S), and decoded; None from a mode that makes no samples.
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
    """

    name: str
    x1: Tensor | None
    data: Tensor | None
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
        count = 0 if self.x1 is None else len(self.x1)
        scores = {name: values.tolist() for name, values in self.scores.items()}
        return [
            {"sample": number, **{name: values[number] for name, values in scores.items()}}
            for number in range(count)
        ]

    def __repr__(self) -> str:
        count = 0 if self.x1 is None else len(self.x1)
        means = [f"{name} {rounded(float(values.mean()))}" for name, values in self.scores.items()]
        per_sample = f"{self.cost.nfe / max(1, count):g} network calls a sample"
        return f"<{visible(self.name)}: {', '.join([f'{count} samples', *means, per_sample])}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        pictures = self.images if self.data is not None and self.data.dim() == 4 else ()
        return as_html(repr(self), self.table(), pictures)


@torch.no_grad()
def score(built: Built, outcome: Outcome, bases: BaseSampleSet) -> ArmResult:
    """Decode and score the samples of an arm; that is not part of its cost."""
    arm, problem = built.arm, built.problem
    result = ArmResult(
        arm.name,
        None,
        None,
        {},
        {},
        outcome.cost,
        warnings=_notes_of(built, outcome),
        inputs=built.inputs,
        licence=_licence_of(built) or "",
        factors=arm.factors or {},
    )
    if isinstance(arm.mode, Study):
        result = attrs.evolve(result, findings=arm.mode.findings(outcome.state))
    if outcome.x1 is None:
        return result
    data = problem.model.decode(outcome.x1)
    scores = problem.reward.each(data, problem.cond.prompts)
    logger.info("{}: {}", arm.name, {name: float(s.mean()) for name, s in scores.items()})
    result = attrs.evolve(
        result,
        x1=outcome.x1,
        data=data,
        scores=scores,
        warnings=result.warnings
        + _dependent_model(built, outcome.x1, data)
        + _dependent(problem, data, scores),
    )
    departure = _departure(built, outcome.x1, bases)
    is_base = isinstance(arm.mode, ReportsKL) and arm.mode.is_base
    note = None if departure is None or is_base else departure.note(len(outcome.x1))
    if note is not None:
        result = attrs.evolve(result, warnings=(*result.warnings, note))
    result = attrs.evolve(result, departure=departure)
    if "reward" not in arm.mode.needs or not problem.reward.optimised:
        return result
    at_most = arm.mode.path_kl(outcome.state) if isinstance(arm.mode, ReportsKL) else None
    base, stats = bases.of(built), bases.stats(built)
    common = problem.reward.weighed(built.weights)
    divergence = Divergence.of(
        problem.reward.of(scores), stats, at_most, compared=common.of(scores)
    )
    shown = {name: f"{v:.4g}" for name, v in attrs.asdict(divergence).items() if v is not None}
    logger.info("{}: {}", arm.name, shown)
    return attrs.evolve(
        result, divergence=divergence, base_r=common.of(base.scores) if base else None
    )


def _notes_of(built: Built, outcome: Outcome) -> tuple[str, ...]:
    """What mode, prompts, sampler and weights have to say beside the arm's numbers."""
    mode, sampler = built.arm.mode, built.arm.sampler
    notes = tuple(mode.warnings(outcome.state)) if isinstance(mode, HasWarnings) else ()
    notes += _prompt_notes(built)
    notes += built.arm.model.file_notes() if built.arm.model else ()
    if sampler and built.arm.draws:
        with attributed(f"sampler '{sampler.kind}': notes"):
            notes += tuple(sampler.notes(built.problem.model))
    licence = _licence_of(built)
    if licence is not None:
        stated = f"'{licence}', as their card states" if licence else "not stated by their card"
        notes += (f"the licence of the weights is {stated}",)
    return notes


def _licence_of(built: Built) -> str | None:
    """Of the model's weights; None where they have none of their own."""
    licensed = built.problem.model.capability(Licensed)
    return licensed.licence if licensed else None


def _departure(built: Built, x1: Tensor, bases: BaseSampleSet) -> Departure | None:
    """An arm's samples beside those of its base model, if there are any; see `Departure`."""
    base, problem = bases.of(built), built.problem
    if base is None or len(x1) != len(problem.cond):
        return None
    return Departure.of(Traits.of(problem.model, x1, problem.cond, built.streams), base.traits)


_AMONG: Final = 4  # samples that a model is asked about at once
_ROUNDED: Final = 0.03  # of the root mean square: more than half precision rounds


def _dependent_model(built: Built, x1: Tensor, data: Tensor) -> tuple[str, ...]:
    """Whether the model moves or decodes the last sample alone otherwise than among others.

    It costs five rows of the network and one of the decoder.
    """
    if len(x1) < 2:
        return ()
    model, cond = guarded(built.problem.model), built.problem.cond
    t = times_of(x1, 0.5)
    noise = built.streams.fold_in("alone").normal(model.shape).to(x1)
    x = model.path.interpolate(noise, x1, t)

    def velocity(rows: slice) -> Tensor:
        return model.velocity(x[rows], t[rows], cond.rows(rows))

    def decoded(rows: slice) -> Tensor:
        return model.decode(x1[rows])

    notes = list[str]()
    last, among = slice(len(x1) - 1, None), slice(max(0, len(x1) - _AMONG), None)
    for what, ask, known in (("velocity", velocity, None), ("decode", decoded, data)):
        who = f"model '{model.name}': {what}"
        try:
            usual = (ask(among) if known is None else known)[-1:].double()
        except AlignError:  # samples that no flow has any more
            continue
        try:
            alone = ask(last).double()
        except AlignError as error:
            notes.append(f"{who} cannot be asked about a sample alone: {error}")
            continue
        if not float((alone - usual).norm()) <= _ROUNDED * float(usual.norm()):
            notes.append(
                f"{who} of a sample alone is another than among others: row i of it must depend on"
                " row i of what it is given alone, and be the same each time."
            )
    return tuple(notes)


def _dependent(problem: Problem, data: Tensor, scores: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Which rewards score the last sample alone otherwise than among the others.

    That is by more than half a percent of the largest score and a percent of the scores' deviation,
    far beyond rounding. It costs a row of every reward.
    """
    if len(data) < 2:
        return ()
    prompts, notes = problem.cond.prompts[-1:], list[str]()
    for term in problem.reward.terms:
        among = scores[term.name].double()
        allowed = 0.005 * float(among.abs().max()) + 0.01 * float(among.std())
        try:
            alone = float(term.reward.score(data[-1:], prompts))
        except AlignError as error:
            notes.append(f"reward '{term.name}' cannot score a sample alone: {error}")
            continue
        if not abs(alone - float(among[-1])) <= allowed:
            notes.append(
                f"reward '{term.name}' scores a sample alone otherwise than among others: row i of"
                " a score must depend on row i of the data alone, and be the same each time."
            )
    return tuple(notes)


def _prompt_notes(built: Built) -> tuple[str, ...]:
    """What the model and the rewards leave out of the prompts."""
    problem, model = built.problem, built.arm.model
    if model is None:
        return ()
    parts = [(f"model '{model.kind}'", problem.model.capability(ReadsPrompts))]
    for term in problem.reward.terms:
        parts.append((f"reward '{term.name}'", term.reward.capability(ReadsPrompts)))
    prompts = problem.cond.prompts
    return tuple(note for who, part in parts if part for note in prompt_notes(who, part, prompts))


@torch.no_grad()
def measure(results: Sequence[ArmResult], metrics: Sequence[Metric]) -> tuple[ArmResult, ...]:
    """Every metric on every arm; the first arm's samples are the references of the others."""
    with_metrics = []
    for result in results:
        numbers: dict[str, float] = {}
        for metric in metrics:
            compared = result is not results[0] and results[0].data is not None
            if result.data is not None and (compared or not metric.needs_references):
                numbers |= compute_metric(metric, result.data, results[0].data)
        with_metrics.append(attrs.evolve(result, metrics=numbers))
    return tuple(with_metrics)


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
        rewards={t.name: RewardRole(weight=t.weight, held_out=t.held_out) for t in recipe.reward},
        arms=tuple(_numbers(x, folders[x.name], independent[x.name]) for x in results),
        unsteered=_bases(recipe, results, bases),
        notes=_notes(recipe, results),
    )


def _numbers(result: ArmResult, folder: str, independent: bool) -> ArmNumbers:
    return ArmNumbers(
        name=result.name,
        folder=folder,
        samples=0 if result.x1 is None else len(result.x1),
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
    if silent := [name for name, gain in known if gain.says_nothing]:
        notes += (
            f"'KL at least' says nothing of {', '.join(silent)}, and is shown as 0: the mean of r"
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


def _unmeasured(metrics: Sequence[Metric], results: Sequence[ArmResult]) -> tuple[str, ...]:
    """Which metrics have nothing to measure, or to compare with."""
    notes, without = list[str](), [result.name for result in results if result.data is None]
    if metrics and without:
        notes.append(f"{', '.join(without)}: no metric is measured, as no samples are made.")
    compared = [metric.kind for metric in metrics if metric.needs_references]
    if compared and results[0].data is None and len(without) < len(results):
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
