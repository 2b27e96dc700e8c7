"""A run: from a recipe to its folder, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import attrs
from loguru import logger

from align.catalog.registry import Catalog, load_catalog
from align.core.errors import (
    DivergedError,
    FolderError,
    NotFiniteError,
    OptionError,
    PartError,
    PromptError,
    RecipeError,
)
from align.core.interrupt import is_interrupt, user_interrupts
from align.core.metric import prepare_metric
from align.core.mode import Trainable
from align.core.option import Key
from align.core.study import Study
from align.engine.loop import Earlier, Observer, Outcome
from align.engine.meter import Cost, shares
from align.io.cache import Cache
from align.io.text import listed, visible
from align.recipe import Arm, Loaded, Recipe, Run, load, to_toml
from align.recipe.far import far_numbers
from align.recipe.inputs import file_digests
from align.recipe.sizes import is_cut
from align.runner.base_samples import BaseSampleSet
from align.runner.before import Before
from align.runner.build import Built, Rewards, build, device_of
from align.runner.fanout import Fanout, planned
from align.runner.film import Film
from align.runner.folder import check_folder, differences, would_claim
from align.runner.half_precision import slow_precisions
from align.runner.kept import Shelves
from align.runner.observers import RunObserver, ends_in_order
from align.runner.plan import Planner, RecipePlan, plan_recipe
from align.runner.progress import Progress
from align.runner.record import Record, origins_of
from align.runner.results import ArmResult, measure, score, to_record
from align.runner.tracking import Tracking
from align.runner.worker import earlier_of
from align.training import parallel
from align.training.loop import import_all


@final
@attrs.frozen(eq=False)
class Result:
    """How a run ended: its folder, and its arms in the recipe's order.

    Attributes:
        failures: why some tables or pictures could not be made of the results, one line each.
    """

    folder: Path
    results: tuple[ArmResult, ...]
    failures: tuple[str, ...] = ()


@final
@attrs.frozen(eq=False)
class Session:
    """A run under way.

    Attributes:
        recipe: what is run.
        record: the run folder.
        rewards: of the recipe, loaded when an arm first needs them.
        observer: watches the run.
        shelves: where base samples are kept from run to run; None for nowhere.
        before: a run with fewer samples, which are not made again.
        reports: whether tables and pictures are made of the results.
    """

    recipe: Recipe
    record: Record
    rewards: Rewards
    observer: RunObserver
    shelves: Shelves | None = None
    before: Before | None = None
    reports: bool = True

    def run(self) -> Result:
        """All stages: base samples, the arms, metrics, record and report."""
        for metric in self.recipe.metric:
            prepare_metric(metric, self.rewards.device)
        arguments = self.recipe, self.record, self.observer, self.rewards, self.shelves
        blocks = Fanout.of(*arguments, before=self.before)
        with self.observer.watching():
            blocks.run()
            results = self.run_whole(blocks.results, blocks.bases)
        results = measure(results, self.recipe.metric)
        failures = self.finish(results, blocks.bases)
        blocks.store.clear()
        return Result(self.record.folder, results, failures)

    def run_whole(
        self, made: Mapping[int, ArmResult], bases: BaseSampleSet
    ) -> tuple[ArmResult, ...]:
        """Run the arms that are not made in blocks: those that train, and studies.

        Args:
            made: results of the others, by their numbers.
            bases: samples of the base models.
        """
        results, ended = list[ArmResult](), list[tuple[Arm, Earlier]]()
        planner = Planner(self.recipe.reward, self.observer.measuring)
        for number, arm in enumerate(self.recipe.arms()):
            if number in made:
                results.append(made[number])
                continue
            built = bases.normalised(build(arm, self.rewards, self.recipe.run))
            self.record.given(built.reference_images())
            self.record.follow(arm.name, built.problem.chunks)
            plan = planned(planner, built)
            share = shares(plan.cost, built.meter) if plan and not plan.most else None
            film = Film.of(built, self.recipe.run.pictures_every)
            earlier = earlier_of(arm, ended)
            observer = self.observer.of(arm, share, film)
            outcome = self.execute(built, observer, earlier and earlier[1])
            if isinstance(arm.mode, Study):
                ended.append((arm, Earlier(outcome.state)))
            result = attrs.evolve(score(built, outcome, bases), plan=plan and plan.cost)
            if result.x1 is not None and result.data is not None:
                self.record.samples(arm.name, result.x1, result.data)
            results.append(result)
        return tuple(results)

    def execute(self, built: Built, observer: Observer, last: Earlier | None) -> Outcome:
        """Run an arm's mode from its last checkpoint, if it has one, and export what it trained."""
        arm, mode, record = built.arm, built.arm.mode, self.record
        saved = record.saved(arm.name) if isinstance(mode, Trainable) else None
        done = saved["done"] if saved else 0
        if done > mode.steps:
            text = f"run.out: the checkpoint of '{arm.name}' is of step {done}"
            raise PartError(f"{text}, and the recipe has {mode.steps}; remove it")
        parallel.check_same_step(done)
        record.forget_metrics(arm.name, done, saved["metrics"] if saved else None)
        logger.info("{}: {} steps, from step {}", arm.name, mode.steps, done)
        if isinstance(mode, Trainable):
            import_all()  # before the clock of the first arm starts
        outcome = built.execute(observer, saved=saved, last=last)
        if isinstance(mode, Trainable):
            path = record.export(arm.name, mode.export(built.problem, outcome.state))
            logger.info("{}: weights in {}", arm.name, path)
            if parallel.first() and (beside := path.with_suffix("")).is_dir():
                names = listed(sorted(file.name for file in beside.iterdir()))
                text = "{}: weights in '{}', and beside them in '{}': {}"
                logger.bind(notice=True).info(text, arm.name, path, beside, names)
        return attrs.evolve(outcome, cost=Cost(**parallel.total(attrs.asdict(outcome.cost))))

    def finish(self, results: Sequence[ArmResult], bases: BaseSampleSet) -> tuple[str, ...]:
        """Keep the numbers of every arm, and make tables and pictures of them.

        Returns:
            Why some of these could not be made; about.json has it too.
        """
        numbers = to_record(self.recipe, results, bases, self.record.sample_folders())
        for note in numbers.all_notes():
            logger.warning(note)
        self.record.results(numbers)
        reports = parallel.first() and self.reports
        failures = reported(self.record.folder) if reports else ()
        self.record.about(not_made=list(failures))
        return failures


def reported(folder: Path) -> tuple[str, ...]:
    """Make the report of a run folder; what could not be made of it."""
    from align.report.writer import write  # needs matplotlib, as nothing before it does

    return write(folder)


def run(
    recipe: str | Path | Mapping[str, Any],
    *,
    sets: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    progress: bool = True,
    catalog: Catalog | None = None,
) -> Result:
    """Run a recipe.

    Args:
        recipe: the TOML file; or the recipe as tables, in which parts may be objects.
        sets: overrides as on the command line, "mode.steps=20".
        sweeps: what is varied, as on the command line, "mode.steps=[10, 20]".
        progress: whether to show a progress bar on the terminal.
        catalog: the installed parts, if they are already loaded.

    Raises:
        RecipeError: the recipe cannot run as it is written.
        AlignError: something else that the user can mend.
        TakenError: another process runs the same recipe in the same folder.
        PluginError: a plugin failed when it was told about the run; the run itself is complete.
        KeyboardInterrupt: the run was stopped; what it had is in its folder. It is a
            TerminatedError after SIGTERM.
    """
    with user_interrupts(), ends_in_order(), parallel.joined():
        catalog = catalog or load_catalog()
        loaded = load(recipe, sets=sets, sweeps=sweeps, catalog=catalog)
        return run_loaded(loaded, catalog, progress=progress)


def run_loaded(
    loaded: Loaded,
    catalog: Catalog,
    *,
    progress: bool,
    out: Path | None = None,
    before: Before | None = None,
    again: str = "",
) -> Result:
    """Run a recipe that is read.

    Args:
        loaded: the recipe.
        catalog: the installed parts.
        progress: whether to show a progress bar on the terminal.
        out: the run folder, where it is not the recipe's own.
        before: a run of the recipe with fewer samples, which are not made again.
        again: the command that takes the run up when it is stopped, where it is not `align run`;
            it makes tables and pictures itself.
    """
    loaded, text = checked(loaded)
    options, out = loaded.recipe.run, out or Path(loaded.recipe.run.out)
    origins, arms = origins_of(loaded.recipe, catalog), loaded.recipe.arms()
    record = Record.open(out, text, origins, [arm.name for arm in arms])
    _say_where(out, record.folder, text)
    bar = Progress(shown=progress and parallel.first())
    observer = _observer(options, record, catalog, bar)
    try:
        observer.begin()
        device = device_of(options.device if _computes(loaded.recipe) else "cpu")
        for slow in slow_precisions(text, device) if options.on is None else ():
            logger.bind(notice=True).warning(slow)
        rewards = Rewards(loaded.recipe.reward, device)
        with _at(loaded, _prompt_key(loaded.recipe)), _naming_far_numbers(text):
            shelves = _shelves(options, loaded.source.path)
            arguments = loaded.recipe, record, rewards, observer, shelves, before
            result = Session(*arguments, reports=not again).run()
    except BaseException as error:
        if is_interrupt(error):
            error.add_note(record.kept(again))
        else:
            logger.opt(exception=error).debug("the error")
        observer.end(None, error)
        raise
    observer.end(result, None)
    observer.raise_hook_errors()
    return result


def dry_run(
    recipe: str | Path | Mapping[str, Any], *, sets: Sequence[str] = (), sweeps: Sequence[str] = ()
) -> tuple[Path, RecipePlan]:
    """Do what a run does before its first sample: read the recipe, build its parts, plan its arms.

    Nothing is written, and nothing is downloaded: weights that are not here are an error.

    Args:
        recipe: as in `run`.
        sets: as in `run`.
        sweeps: as in `run`.

    Returns:
        The folder that the run would write, and the plans of its arms.

    Raises:
        RecipeError: the recipe cannot run as it is written.
        AlignError: something else that the user can mend.
    """
    with user_interrupts():
        loaded, text = checked(load(recipe, sets=sets, sweeps=sweeps, catalog=load_catalog()))
        folder = would_claim(Path(loaded.recipe.run.out), text)
        with _at(loaded, _prompt_key(loaded.recipe)), _naming_far_numbers(text):
            return folder, plan_recipe(loaded.recipe, ready=True)


def checked(loaded: Loaded) -> tuple[Loaded, str]:
    """A recipe that may run here, and its resolved text; raises RecipeError where it may not."""
    _check_processes(loaded)
    text = _written(loaded)
    with _at(loaded, ("run", "out")):
        check_folder(Path(loaded.recipe.run.out))
    return loaded, text


def _observer(options: Run, record: Record, catalog: Catalog, bar: Progress) -> RunObserver:
    tracking = Tracking.of(record, options.trackers)
    return RunObserver(record, catalog, bar, options.checkpoint_every, tracking)


def _computes(recipe: Recipe) -> bool:
    """Whether this process makes anything itself."""
    return recipe.run.on is None or not all(is_cut(arm.mode) for arm in recipe.arms())


def _shelves(options: Run, recipe: str) -> Shelves | None:
    """Where base samples are kept; several processes draw theirs anew, so that all do the same."""
    if not options.cache or parallel.count() > 1:
        return None
    cache = Cache.of_user()
    return Shelves(cache, str(Path(recipe).absolute())) if cache else None


def _say_where(out: Path, folder: Path, text: str) -> None:
    """Say that a run begins in another folder than it was asked for, and why."""
    if folder.name != out.absolute().name and parallel.first():
        keys = differences(out, text)
        notice = "'{}' holds a run of another recipe{}; this one begins anew, from step 0, in '{}'"
        apart = f" (it differs in {keys})" if keys else ""
        logger.bind(notice=True).info(notice, out, apart, folder)


def _check_processes(loaded: Loaded) -> None:
    """Raise RecipeError if there are several, and something else to do than to train."""
    for arm in loaded.recipe.arms():
        if parallel.count() > 1 and not isinstance(arm.mode, Trainable):
            where = loaded.source.where(("mode",))
            raise RecipeError(
                f"{where}: mode: '{arm.mode.kind}' does not train, and several processes can do"
                " nothing else; start it without torchrun"
            )


def _written(loaded: Loaded) -> str:
    """The resolved recipe, with digests of what it reads; raises RecipeError if it is no text."""
    text = to_toml(attrs.evolve(loaded.recipe, files=file_digests(loaded.recipe)))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = loaded.source.path
        raise RecipeError(
            f"{visible(where)}: the recipe, its name or a value given beside it is no text in UTF-8"
            f" ({visible(error.object[error.start : error.end])}); change that"
        ) from error
    return text


@contextmanager
def _naming_far_numbers(text: str) -> Iterator[None]:
    """Where numbers of a run overflow, name those of its recipe that are so large or small."""
    try:
        yield
    except (NotFiniteError, DivergedError, PartError) as error:
        numeric = isinstance(error, NotFiniteError | DivergedError) or _is_numeric(error)
        if not numeric or not (far := far_numbers(text)):
            raise
        raise type(error)(f"{error}; {far}") from error


def _is_numeric(error: BaseException | None) -> bool:
    """Whether an error comes from arithmetic that failed, as far as its causes say."""
    while error is not None and not isinstance(error, ArithmeticError | RuntimeError):
        error = error.__cause__
    return error is not None


def _prompt_key(recipe: Recipe) -> Key:
    """Where a recipe says what samples are made for."""
    return ("model", "prompts" if recipe.model and recipe.model.prompts else "prompt")


@contextmanager
def _at(loaded: Loaded, key: Key) -> Iterator[None]:
    """Say where in the recipe the value stands that is at fault."""
    try:
        yield
    except OptionError as error:
        raise RecipeError(f"{loaded.source.where(error.key)}: {error}") from error
    except (PromptError, FolderError) as error:
        where, name = loaded.source.where(key), ".".join(map(str, key))
        raise RecipeError(f"{where}: {name}: {error}") from error
