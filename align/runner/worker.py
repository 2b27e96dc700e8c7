"""Who does the blocks of a run: this process, or one that an executor has started."""

from __future__ import annotations

import functools
import os
import tomllib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import final

import attrs
from loguru import logger

from align.catalog.registry import load_catalog
from align.core.chunks import Chunks
from align.core.executor import Job, Task
from align.core.mode import Continues
from align.core.model import FlowModel, ModelSpec
from align.core.study import Study
from align.engine.guard import guarded
from align.engine.loop import Earlier, Observer
from align.engine.meter import Cost
from align.io.cache import Cache
from align.recipe import Arm, Recipe, Run, load
from align.recipe.sizes import is_cut, samples_together
from align.runner.base_samples import BaseSampleSet, OnProgress, arms_with_bases, sample_bases
from align.runner.block import Block
from align.runner.build import Built, Rewards, build, device_of
from align.runner.film import Film
from align.runner.kept import Shelves
from align.runner.observers import Listener, NullObserver
from align.runner.store import BlockStore


def tasks_of(recipe: Recipe, made: int = 0) -> tuple[Task, ...]:
    """The blocks of all arms that are cut, and before them samples of the base models.

    They depend on the recipe alone: not on who does them, nor on free memory.

    Args:
        recipe: of the run.
        made: samples that are one block already, as a run before made them.
    """
    arms, run, tasks = recipe.arms(), recipe.run, list[Task]()
    if arms_with_bases(recipe):
        tasks.append(Task(name="samples of the base models"))
    for group in _groups(run, arms):
        size = max(samples_together(run, arms[number]) for number in group)
        names = ", ".join(f"'{arms[number].name}'" for number in group)
        starts = [*([0] if made else ()), *range(made, run.samples, size), run.samples]
        for first, end in pairwise(starts):
            count = end - first
            name = f"samples {first} to {first + count - 1} of {names}"
            tasks.append(Task(name=name, arms=group, first=first, count=count))
    return tuple(tasks)


def _groups(run: Run, arms: Sequence[Arm]) -> list[tuple[int, ...]]:
    """Arms that go on from each other, by their numbers.

    An arm that is one block, as its samples depend on each other, goes on from others alone where
    these are one block too.
    """
    groups = list[list[int]]()
    for number, arm in enumerate(arms):
        if not is_cut(arm.mode):
            continue
        size = samples_together(run, arm)
        before = [
            earlier
            for group in groups
            for earlier in group
            if samples_together(run, arms[earlier]) == size
        ]
        shared = {earlier: shared_steps(arm, arms[earlier]) for earlier in before}
        if isinstance(arm.mode, Continues) and any(shared.values()):
            last = max(before, key=lambda earlier: shared[earlier])
            next(group for group in groups if last in group).append(number)
        else:
            groups.append([number])
    return [tuple(group) for group in groups]


def earlier_of(arm: Arm, ended: Sequence[tuple[Arm, Earlier]]) -> tuple[Arm, Earlier] | None:
    """The arm that ended farthest on an arm's own way; None if there is none."""
    steps = [shared_steps(arm, before) for before, _ in ended]
    shared = max(steps, default=0)
    return ended[steps.index(shared)] if shared else None


def shared_steps(arm: Arm, before: Arm) -> int:
    """How many steps of an arm one before it has taken; 1 for what a study prepares."""
    mode = arm.mode
    if arm.model != before.model or arm.weights != before.weights:
        return 0
    if isinstance(mode, Study):
        return int(mode.is_prepared_by(before.mode))
    if "estimator" in mode.needs and arm.estimator != before.estimator:
        return 0
    if arm.draws and arm.sampler != before.sampler:
        return 0
    return mode.steps_shared(before.mode) if isinstance(mode, Continues) else 0


class Host:
    """The process around a worker: hears how its blocks go on. This one hears nothing."""

    def begins(self, built: Built, arm: int, task: Task) -> Cost | None:
        """An arm is built for a block; returns what the arm will cost, if that is known."""
        return None

    def observer(self, arm: int, task: Task) -> Observer:
        """What watches the steps of a block."""
        return NullObserver()

    def drawing(self) -> tuple[OnProgress, Shelves | None]:
        """What watches base samples, and where they are kept from run to run."""
        return (lambda done, count: None), None

    def made(self, arm: int, task: Task, block: Block) -> None:
        """A block is done."""


@final
@attrs.define(eq=False)
class Worker:
    """Does blocks of a run; what it loads for one it keeps for the next.

    Attributes:
        store: where blocks are kept.
        rewards: of the recipe.
        host: the process around it.
        bases: samples of the base models, once they are known.
    """

    store: BlockStore
    rewards: Rewards
    host: Host
    bases: BaseSampleSet | None = None
    _built: dict[int, Built] = attrs.field(factory=dict, init=False)
    _ended: dict[Task, list[tuple[Arm, Earlier]]] = attrs.field(factory=dict, init=False)
    _model: tuple[ModelSpec, FlowModel] | None = attrs.field(default=None, init=False)

    def perform(self, task: Task) -> None:
        """Do a task, and keep what it makes."""
        if not task.arms:
            on_progress, shelves = self.host.drawing()
            recipe = self.store.recipe
            self.bases = sample_bases(recipe, self.rewards, on_progress, shelves)
            self.store.write_bases(self.bases)
            return
        self._ended.pop(task, None)
        for number in task.arms:
            self.perform_arm(number, task)

    def perform_arm(self, number: int, task: Task) -> None:
        """Do a task for one of its arms; those before it come first, as it may go on from them."""
        if self.bases is None:
            self.bases = self.store.bases() or BaseSampleSet()
        recipe, bases, ended = self.store.recipe, self.bases, self._ended.setdefault(task, [])
        arm = recipe.arms()[number]
        built = self._arm(number, task, bases)
        plan = self.host.begins(built, number, task)
        film = Film.of(built, recipe.run.pictures_every) if task.first == 0 else None
        listener = Listener(self.host.observer(number, task), film)
        earlier = earlier_of(arm, ended)
        if earlier:
            shared = shared_steps(arm, earlier[0])
            text = "{}: {} of its {} steps are those of '{}', and are charged as if taken again"
            logger.info(text, arm.name, shared, arm.mode.steps, earlier[0].name)
        outcome = built.execute(listener, last=earlier and earlier[1])
        if isinstance(arm.mode, Continues):
            counted = built.meter.save(self.rewards.device)
            ended.append((arm, Earlier(outcome.state, listener.infos, counted)))
        block = Block.of(
            built,
            outcome,
            recipe.metric,
            compared=bases.of(arm) is not None,
            last=task.first + task.count == recipe.run.samples,
        )
        given = built.reference_images() if task.first == 0 else {}
        block = attrs.evolve(block, plan=plan, steps=tuple(listener.infos), given=given)
        self.store.write(number, task, block)
        if number == task.arms[-1]:
            del self._ended[task]
        self.host.made(number, task, block)

    def _arm(self, number: int, task: Task, bases: BaseSampleSet) -> Built:
        """An arm with the samples of a task."""
        samples = range(task.first, task.first + task.count)
        if number not in self._built:
            arm = self.store.recipe.arms()[number]
            # Arms of other tasks come back no more, as tasks are done in their order.
            self._built = {n: built for n, built in self._built.items() if n in task.arms}
            if self._model and self._model[0] != arm.model:
                self._model = None  # there may be no room for two
            model = self._model[1] if self._model else None
            built = build(arm, self.rewards, self.store.recipe.run, model, samples=samples)
            if arm.model is not None:
                self._model = arm.model, guarded(built.problem.model).inner
            self._built[number] = bases.normalised(built)
        return self._built[number].with_samples(samples)


@final
@attrs.frozen
class RunJob(Job):
    """The blocks of a run, for processes that an executor starts.

    Attributes:
        folder: the run folder, whose recipe is run.
        cwd: the folder that paths of the recipe start from.
        cache: whether base samples are kept from run to run.
        chunks: how many rows went through the parts of each arm at once before, by arm.
    """

    folder: str
    cwd: str
    cache: bool
    chunks: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = ()

    def perform(self, task: Task) -> None:
        """Do a task, with what this process has loaded for those before."""
        _opened(self).perform(task)

    def is_done(self, task: Task) -> bool:
        """Whether its files have their names."""
        return _store(self).has(task)


@functools.lru_cache(maxsize=1)
def _store(job: RunJob) -> BlockStore:
    from align.report.schema import recipe_digest
    from align.runner.folder import slugs

    os.chdir(job.cwd)
    text = (Path(job.folder) / "recipe.toml").read_text("utf-8")
    tables = tomllib.loads(text)
    for name in ("on", "trackers"):  # whose plugins need not be here
        tables["run"].pop(name, None)
    recipe = load(tables, catalog=load_catalog()).recipe
    names = slugs([arm.name for arm in recipe.arms()])
    return BlockStore(Path(job.folder), recipe, recipe_digest(text), names)


@functools.lru_cache(maxsize=1)
def _opened(job: RunJob) -> Worker:
    store = _store(job)
    rewards = Rewards(store.recipe.reward, device_of(store.recipe.run.device))
    chunks = {arm: dict(rows) for arm, rows in job.chunks}
    return Worker(store, rewards, _Away(job, chunks))


@final
@attrs.frozen(eq=False)
class _Away(Host):
    """A process that an executor has started."""

    job: RunJob
    chunks: Mapping[str, Mapping[str, int]]

    def begins(self, built: Built, arm: int, task: Task) -> None:
        """Take no more rows at once than before, so that a run that goes on has the same bits."""
        chunks: Chunks = built.problem.chunks
        chunks.before = self.chunks.get(built.arm.name, {})

    def drawing(self) -> tuple[OnProgress, Shelves | None]:
        """Base samples are kept where this process runs."""
        cache = Cache.of_user() if self.job.cache else None
        recipe = str(Path(self.job.folder) / "recipe.toml")
        return (lambda done, count: None), Shelves(cache, recipe) if cache else None
