"""The one road a run takes: recipe, parts, engine, record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import attrs
import torch
from loguru import logger

from align import report
from align.catalog.registry import Catalog, load_catalog
from align.core.estimator import ValueEstimator
from align.core.metric import Metric
from align.core.mode import AlignmentMode, HasWarnings, Trainable
from align.core.model import ModelSpec
from align.core.problem import Problem
from align.core.reward import HasOrigins, HasReferenceImages
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.core.study import Study
from align.engine.loop import Outcome, execute
from align.engine.meter import Cost, Meter
from align.errors import PromptError, RecipeError
from align.recipe import Arm, Loaded, Recipe, RewardTerm, Run, load, to_toml, with_unique_names
from align.runner.base_samples import BaseSampleStore, notes
from align.runner.build import Rewards, build, device_of
from align.runner.observers import NullObserver, RunObserver, stop_after_step
from align.runner.progress import Progress
from align.runner.record import ArmResult, Record, folder_for
from align.training import parallel

# Silent until a record asks for a log.
logger.disable("align")


@final
@attrs.frozen(eq=False)
class Result:
    """How a run ended: its folder, and its arms in the recipe's order."""

    folder: Path
    sides: tuple[ArmResult, ...]


def run(
    recipe: str | Path,
    *,
    sets: Sequence[str] = (),
    progress: bool = True,
    catalog: Catalog | None = None,
) -> Result:
    """Run a recipe.

    Args:
        recipe: the TOML file.
        sets: overrides as on the command line, "mode.steps=20".
        progress: whether to show a progress bar on the terminal.
        catalog: the installed parts, if they are already loaded.

    Raises:
        RecipeError: the recipe cannot run as it is written.
        AlignError: something else that the user can mend.
        KeyboardInterrupt: the run was stopped; what it had is in its folder.
    """
    with parallel.joined():
        catalog = catalog or load_catalog()
        loaded = load(recipe, sets=sets, catalog=catalog)
        _check_processes(loaded)
        return _run(loaded, catalog, progress and parallel.first())


def _run(loaded: Loaded, catalog: Catalog, progress: bool) -> Result:
    text = to_toml(loaded.recipe)
    record = Record.open(
        folder_for(Path(loaded.recipe.run.out), text),
        text,
        _origins(loaded.recipe, catalog),
        [arm.name for arm in loaded.recipe.arms()],
    )
    try:
        if parallel.first():
            catalog.hook.align_run_start(run=record)
        with stop_after_step() as stopping, Progress(shown=progress) as bar:
            bases = BaseSampleStore(loaded.recipe, told=_telling(bar, stopping))
            rewards = Rewards(loaded.recipe.reward, device_of(loaded.recipe.run.device))
            studied: list[tuple[Arm, object]] = []
            sides = tuple(
                _side(arm, loaded, rewards, bases, studied, record, catalog, bar, stopping)
                for arm in loaded.recipe.arms()
            )
        result = Result(record.folder, _measured(sides, loaded.recipe.metric))
        said = notes(loaded.recipe, {side.name: side.divergence for side in sides})
        said += [f"{side.name}: {warning}" for side in sides for warning in side.warnings]
        for note in said:
            logger.warning(note)
        record.results(loaded.recipe.reward, result.sides, bases.said(), said)
        if parallel.first():
            report.write(record.folder)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        record.close("interrupted" if stopped else f"failed: {type(error).__name__}: {error}")
        if parallel.first():
            catalog.hook.align_run_end(run=record, result=None, error=error)
        raise
    record.close("done")
    if parallel.first():
        catalog.hook.align_run_end(run=record, result=result, error=None)
    return result


def sample(
    model: ModelSpec,
    mode: AlignmentMode[Any],
    *,
    rewards: Sequence[RewardTerm] = (),
    sampler: PosteriorSampler | None = None,
    estimator: ValueEstimator | None = None,
    samples: int = 8,
    unsteered: int = 0,
    seed: int = 0,
    device: str = "auto",
) -> ArmResult:
    """Run parts directly, without a recipe and without a record; for notebooks.

    Args:
        model: the base model.
        mode: what is done.
        rewards: what samples should score high on, and what is measured.
        sampler: if the mode or the estimator needs one.
        estimator: if the mode needs one.
        samples: how many are made.
        unsteered: how many samples of the base model are made beside them, for the divergence and
            for rewards that are normalised; 0 for none.
        seed: every random number is derived from it.
        device: "auto", "cpu" or "cuda".
    """
    recipe = Recipe(
        run=Run(seed=seed, samples=samples, unsteered=unsteered),
        model=model,
        sampler=sampler,
        estimator=estimator,
        reward=with_unique_names(rewards),
        mode=mode,
    )
    (arm,), where, meter, bases = recipe.arms(), device_of(device), Meter(), BaseSampleStore(recipe)
    built = Rewards(recipe.reward, where)
    problem = build(arm, built, where, meter, samples=samples)
    problem = bases.normalised(arm, problem)
    streams = Streams(seed, tuple(range(samples)), device=where)
    outcome = execute(mode, problem, streams, meter=meter, observer=NullObserver())
    return _scored(arm, problem, outcome, bases)


def _check_processes(loaded: Loaded) -> None:
    """Raise RecipeError if there are several, and something else to do than to train."""
    for arm in loaded.recipe.arms():
        if parallel.count() > 1 and not isinstance(arm.mode, Trainable):
            where = loaded.source.where(("mode",))
            raise RecipeError(
                f"{where}: mode: '{arm.mode.kind}' does not train, and several processes can do"
                " nothing else; start it without torchrun"
            )


def _side(
    arm: Arm,
    loaded: Loaded,
    rewards: Rewards,
    bases: BaseSampleStore,
    studied: list[tuple[Arm, object]],
    record: Record,
    catalog: Catalog,
    bar: Progress,
    stopping: Callable[[], bool],
) -> ArmResult:
    """Run one arm and keep its samples; `studied` are the studies before, with their states."""
    options, meter = loaded.recipe.run, Meter()
    samples, chunk, device = options.samples, options.chunk, rewards.device
    with _located(loaded):
        problem = build(arm, rewards, device, meter, samples=samples, chunk=chunk)
    record.given(_given(problem))
    same = (s for a, s in studied if (a.model, a.mode) == (arm.model, arm.mode))
    problem = bases.normalised(arm, problem)
    rows = arm.mode.batch if isinstance(arm.mode, Trainable) else 0
    watch = RunObserver(arm.name, rows, options.checkpoint_every, record, catalog, bar, stopping)
    streams = Streams(options.seed, tuple(range(options.samples)), device=device)
    outcome = _executed(arm, problem, streams, meter, watch, next(same, None))
    side = _scored(arm, problem, outcome, bases)
    if isinstance(arm.mode, HasWarnings):
        side = attrs.evolve(side, warnings=arm.mode.warnings(outcome.state))
    if isinstance(arm.mode, Study):
        studied.append((arm, outcome.state))
        side = attrs.evolve(side, findings=arm.mode.findings(outcome.state))
    if side.x1 is not None and side.data is not None:
        record.samples(arm.name, side.x1, side.data)
    logger.info("{}: {}", arm.name, {name: float(s.mean()) for name, s in side.scores.items()})
    return side


def _executed(
    arm: Arm, problem: Problem, streams: Streams, meter: Meter, watch: RunObserver, last: object
) -> Outcome:
    """Run an arm's mode from its last checkpoint, if it has one, and export what it trained."""
    mode, record = arm.mode, watch.record
    saved = record.saved(arm.name) if isinstance(mode, Trainable) else None
    done = saved["done"] if saved else 0
    parallel.agree(done)
    record.forget_metrics(arm.name, done)
    logger.info("{}: {} steps, from step {}", arm.name, mode.steps, done)
    meter.begin()
    outcome = execute(mode, problem, streams, meter=meter, observer=watch, saved=saved, last=last)
    if isinstance(mode, Trainable):
        path = record.export(arm.name, mode.export(problem, outcome.state))
        logger.info("{}: weights in {}", arm.name, path)
    return attrs.evolve(outcome, cost=Cost(**parallel.total(attrs.asdict(outcome.cost))))


def _telling(bar: Progress, stopping: Callable[[], bool]) -> Callable[[int, int], None]:
    """Show how many unsteered samples there are, and stop there if the user asks."""

    def told(done: int, count: int) -> None:
        bar.step("unsteered samples", done - 1, count, {})
        if stopping():
            raise KeyboardInterrupt

    return told


def _given(problem: Problem) -> dict[str, torch.Tensor]:
    """Pictures that rewards have; where a name is taken, with the reward's beside it."""
    given: dict[str, torch.Tensor] = {}
    for term in problem.reward.terms:
        reward = term.reward.capability(HasReferenceImages)
        for name, picture in reward.pictures().items() if reward else ():
            given[f"{name} {term.name}" if name in given else name] = picture
    return given


@contextmanager
def _located(loaded: Loaded) -> Iterator[None]:
    """Say where in the recipe the prompt stands that the model cannot follow."""
    try:
        yield
    except PromptError as error:
        where = loaded.source.where(("model", "prompt"))
        raise RecipeError(f"{where}: model.prompt: {error}") from error


@torch.no_grad()
def _scored(arm: Arm, problem: Problem, outcome: Outcome, bases: BaseSampleStore) -> ArmResult:
    """Decode and score the samples of a run; that is not part of its cost."""
    if outcome.x1 is None:
        return ArmResult(arm.name, None, None, {}, {}, outcome.cost)
    data = problem.model.decode(outcome.x1)
    scores = problem.reward.each(data, problem.cond.prompts)
    divergence = bases.divergence(arm, problem, scores, outcome.state)
    return ArmResult(arm.name, outcome.x1, data, scores, {}, outcome.cost, divergence)


@torch.no_grad()
def _measured(sides: tuple[ArmResult, ...], metrics: Sequence[Metric]) -> tuple[ArmResult, ...]:
    """Every metric on every arm; the first arm's samples are the references of the others."""
    measured = []
    for side in sides:
        found: dict[str, float] = {}
        for metric in metrics:
            reference = sides[0].data if metric.needs_references else None
            if side.data is not None and not (metric.needs_references and side is sides[0]):
                found |= metric.compute(side.data, reference)
        measured.append(attrs.evolve(side, metrics=found))
    return tuple(measured)


def _origins(recipe: Recipe, catalog: Catalog) -> dict[str, str]:
    """Where every part of a recipe comes from."""
    parts: list[Any] = [*(term.part for term in recipe.reward), *recipe.metric]
    for arm in recipe.arms():
        inner = attrs.asdict(arm.mode, recurse=False).values()
        parts += [p for p in (arm.model, arm.sampler, arm.estimator, arm.mode, *inner) if p]
    known = {
        f"{entry.cls.__module__}.{entry.cls.__name__}": str(entry.origin)
        for entry in map(catalog.entry_of, parts)
        if entry is not None
    }
    for part in parts:
        if isinstance(part, HasOrigins):
            known |= part.origins()
    return known
