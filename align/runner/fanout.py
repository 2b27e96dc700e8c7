"""The blocks of a run: who makes them, how far they are, and what they are together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, final

import attrs
from loguru import logger
from torch import Tensor

from align.core.errors import ContractError, UserInterrupt
from align.core.executor import Executor, Task, have_done
from align.core.reward import Reward, Term, WeightedReward
from align.engine.loop import Observer
from align.engine.meter import Cost, shares
from align.recipe import Arm, Recipe
from align.recipe.sizes import is_cut
from align.report.schema import recipe_digest
from align.runner.base_samples import BaseSampleSet, OnProgress
from align.runner.before import Before
from align.runner.block import Block
from align.runner.build import Built, Rewards
from align.runner.kept import Shelves
from align.runner.observers import RunObserver
from align.runner.plan import NoPlanError, Plan, Planner, summary
from align.runner.record import Record
from align.runner.results import ArmResult, result_of
from align.runner.store import BlockStore
from align.runner.worker import Host, RunJob, Worker, tasks_of

_BASES: Final = "unsteered samples"


@final
@attrs.define(eq=False)
class Fanout:
    """Has all blocks of a run made, and joins those of each arm as soon as it is whole.

    Attributes:
        recipe: what is run.
        record: the run folder.
        observer: watches the run.
        store: where blocks are kept.
        worker: makes blocks in this process, where the recipe names no executor.
        begun: samples of every arm that are one block already.
        bases: samples of the base models, once they are known.
        results: of the arms that are whole, by their numbers.
    """

    recipe: Recipe
    record: Record
    observer: RunObserver
    store: BlockStore
    worker: Worker | None
    begun: int = 0
    bases: BaseSampleSet = attrs.field(factory=BaseSampleSet, init=False)
    results: dict[int, ArmResult] = attrs.field(factory=dict, init=False)
    _tasks: Sequence[Task] = attrs.field(init=False)
    _done: set[Task] = attrs.field(factory=set, init=False)
    _here: dict[tuple[int, int], Block] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        """See which blocks are to be made, and which there are."""
        self._tasks = tasks_of(self.recipe, self.begun)
        self._done = {task for task in self._tasks if task.arms and self.store.holds(task)}

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        record: Record,
        observer: RunObserver,
        rewards: Rewards,
        shelves: Shelves | None,
        *,
        before: Before | None = None,
    ) -> Fanout:
        """The blocks of a run as its recipe says who makes them, `before` what is there already."""
        store = BlockStore(record.folder, recipe, recipe_digest(record.recipe), record.arms)
        if before is not None:
            before.fill(store, rewards)
        fanout = cls(recipe, record, observer, store, None, before.samples if before else 0)
        if recipe.run.on is None:
            planner = Planner(recipe.reward, observer.measuring)
            host = _Here(fanout, planner, shelves)
            fanout.worker = Worker(store, rewards, host)
        return fanout

    def run(self) -> None:
        """Have everything made that is not there yet.

        Raises:
            AlignError: what a part raised, or a process that was lost too often.
            UserInterrupt: the user asked the run to stop.
        """
        arms = self.recipe.arms()
        self._tell_uncut(arms)
        if self._done:
            count, of_all = (sum(len(t.arms) for t in ts) for ts in (self._done, self._tasks))
            text = "{} of {} blocks are there from a run before, and are not made again"
            logger.bind(notice=True).info(text, count, of_all)
        self._run_bases()
        for number in self._cut():
            self.record.forget_metrics(arms[number].name, 0)
        for number in self._cut():
            self._join(number)
        todo = [task for task in self._tasks if task.arms and task not in self._done]
        if todo:
            self._execute(todo)

    def _run_bases(self) -> None:
        """Have samples of the base models made, or read those of a run before."""
        todo = [task for task in self._tasks if not task.arms]
        if todo and self.store.bases() is None:
            self._execute(todo)
        made = self.worker.bases if self.worker else None
        self.bases = made or self.store.bases() or BaseSampleSet()
        if origins := [base.origin for base in self.bases.models if base.origin]:
            self.record.about(unsteered=origins)

    def _execute(self, tasks: Sequence[Task]) -> None:
        """Have tasks done, in this process or by the recipe's executor."""
        if self.worker is None:
            assert self.recipe.run.on is not None
            self._run_on(self.recipe.run.on, tasks)
            return
        for number, task in self._in_order(tasks):
            if number is None:
                self.worker.perform(task)
            else:
                self.worker.perform_arm(number, task)
            if not task.arms or number == task.arms[-1]:
                self.done(task)
            self.check()

    def _in_order(self, tasks: Sequence[Task]) -> list[tuple[int | None, Task]]:
        """Arms with their tasks as one process does them: whole arms in the recipe's order."""
        whole = self.recipe.run.samples
        every = [(number, task) for task in tasks for number in task.arms or (None,)]

        def place(item: tuple[int | None, Task]) -> tuple[int, int, int]:
            number, task = item
            number = -1 if number is None else number
            first = number if task.count == whole or not task.arms else task.arms[0]
            return first, task.first, number

        return sorted(every, key=place)

    def _run_on(self, executor: Executor, tasks: Sequence[Task]) -> None:
        cwd, folder = str(Path.cwd()), str(self.record.folder.absolute())
        rows = self.record.chunk_rows()
        chunks = tuple((arm, tuple(sorted(counts.items()))) for arm, counts in rows.items())
        job = RunJob(folder, cwd, self.recipe.run.cache, chunks)
        self._show(tasks)
        have_done(executor, job, tasks, self, folder)

    def done(self, task: Task) -> None:
        """A task is done: show it, and join the arms that are whole."""
        self._done.add(task)
        if self.worker is None:
            self._show([task])
        for number in task.arms:
            self._join(number)

    def check(self) -> None:
        """Raise UserInterrupt if the user asked the run to stop."""
        if self.observer.stopping():
            raise UserInterrupt

    def made(self, arm: int, task: Task, block: Block) -> None:
        """Keep a block that was made here, if it is the whole arm."""
        if task.count == self.recipe.run.samples:
            self._here[arm, task.first] = block

    def blocks(self, arm: int) -> list[Task]:
        """The blocks of an arm, in the order of their samples."""
        return [task for task in self._tasks if arm in task.arms]

    def is_live(self, arm: int) -> bool:
        """Whether the steps of an arm are told as they are taken: in this process, in one block."""
        return self.worker is not None and len(self.blocks(arm)) == 1

    def _cut(self) -> list[int]:
        return [n for n, arm in enumerate(self.recipe.arms()) if is_cut(arm.mode)]

    def _show(self, tasks: Sequence[Task]) -> None:
        """Show how many samples of each arm there are."""
        bar, count = self.observer.bar, self.recipe.run.samples
        for number in dict.fromkeys(arm for task in tasks for arm in task.arms):
            made = sum(task.count for task in self.blocks(number) if task in self._done)
            bar.step(self.recipe.arms()[number].name, made - 1, count, {}, unit="samples")
        if any(not task.arms for task in tasks):
            bar.step(_BASES, 0 if tasks[0] in self._done else -1, 1, {})

    def _join(self, number: int) -> None:
        """Join the blocks of an arm, if all are there."""
        blocks = self.blocks(number)
        if number in self.results or not self._done.issuperset(blocks):
            return
        arm, samples = self.recipe.arms()[number], self.store.samples(number)
        made_here = {task: self._here.pop((number, task.first), None) for task in blocks}
        made = (made_here[task] or self.store.read(number, task) for task in blocks)
        whole = Block.joined(made, self.recipe.metric)
        if not (self.is_live(number) and None not in made_here.values()):
            self.observer.told(arm, whole.steps)
            self.record.given(whole.given)
            self.record.add_chunk_rows(arm.name, whole.chunks)
        if whole.samples:
            samples = attrs.evolve(samples, count=whole.samples)
            samples.write_states(self._states(number, blocks, made_here))
            if self.recipe.run.npz:
                samples.write_npz()
        weights = {term.name: term.weight for term in self.recipe.reward}
        reward = self._reward(arm)
        result = result_of(arm, whole, reward, weights, self.bases)
        self.results[number] = attrs.evolve(result, stored=samples if whole.samples else None)

    def _states(
        self, number: int, blocks: Sequence[Task], here: Mapping[Task, Block | None]
    ) -> Iterator[Tensor]:
        """Clean states of an arm, those of a block at a time."""
        for task in blocks:
            block = here[task] or self.store.read(number, task)
            if block.x1 is not None:
                yield block.x1

    def _reward(self, arm: Arm) -> WeightedReward:
        """What an arm optimises, as a function of the scores."""
        plain = [
            Term(
                name=t.name,
                reward=_Scored(),
                weight=t.weight,
                held_out=t.held_out,
                compares=t.part.compares,
            )
            for t in self.recipe.reward
        ]
        terms = self.bases.transformed(plain) if "reward" in arm.mode.needs else tuple(plain)
        return WeightedReward(terms).weighed(arm.weights or {})

    def _tell_uncut(self, arms: Sequence[Arm]) -> None:
        """Say which arms an executor cannot share out, and why."""
        notice = logger.bind(notice=True)
        for arm in arms if self.recipe.run.on is not None else ():
            if not is_cut(arm.mode):
                notice.info("{}: trains or measures, and runs in this process", arm.name)
            elif not arm.mode.independent:
                text = "{}: its samples depend on each other, so that it is one block"
                notice.info(text, arm.name)


@final
@attrs.frozen(eq=False)
class _Scored(Reward):
    """Stands for a reward where its scores are known already."""

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Raises ContractError."""
        raise ContractError("this reward is not loaded here")


@final
@attrs.define(eq=False)
class _Here(Host):
    """This process, where no executor is named: shows every step, and plans arms."""

    fanout: Fanout
    planner: Planner
    shelves: Shelves | None
    share: Callable[[], float] | None = None

    def begins(self, built: Built, arm: int, task: Task) -> Cost | None:
        """Say what an arm will cost, before its first block; its parts are warm then."""
        record, name = self.fanout.record, built.arm.name
        record.given(built.reference_images())
        record.follow(name, built.problem.chunks)
        if task.first:
            return None
        plan = planned(self.planner, built, self.fanout.recipe.run.samples / task.count)
        self.share = shares(plan.cost, built.meter) if plan and not plan.most else None
        logger.info("{}: {} steps, from step 0", name, built.arm.mode.steps)
        return plan and plan.cost

    def observer(self, arm: int, task: Task) -> Observer:
        """The run's own where an arm is one block; else one that counts the steps of all."""
        watching, blocks = self.fanout.observer, self.fanout.blocks(arm)
        named = self.fanout.recipe.arms()[arm]
        if self.fanout.is_live(arm):
            return watching.of(named, self.share)
        return watching.of_block(named, blocks.index(task), len(blocks))

    def drawing(self) -> tuple[OnProgress, Shelves | None]:
        """Base samples are shown as they are drawn, and kept from run to run."""
        return self.fanout.observer.base_samples, self.shelves

    def made(self, arm: int, task: Task, block: Block) -> None:
        """Keep a block that is a whole arm."""
        self.fanout.made(arm, task, block)


def planned(planner: Planner, built: Built, times: float = 1.0) -> Plan | None:
    """Say what an arm of so many times these samples will cost; None where it is not known."""
    try:
        plan = planner.plan(built)
    except NoPlanError as error:
        logger.info("{}: no plan: {}", built.arm.name, error)
        return None
    if times != 1:
        plan = plan.times(times)
    notice = logger.bind(notice=True)
    notice.info("{}: {}", built.arm.name, summary(plan))
    if plan.cures:
        text = "{}: memory may not suffice; what helps: {}"
        notice.warning(text, built.arm.name, ", or ".join(plan.cures))
    return plan
