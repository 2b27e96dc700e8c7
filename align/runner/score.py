"""Rewards and metrics of pictures that lie in a folder, whoever made them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, final

import attrs
import torch
from loguru import logger
from torch import Tensor

from align.core.attribution import attributed
from align.core.chunks import Chunks
from align.core.errors import AlignError, PartError, PromptError
from align.core.executor import Executor, Job, Task, Watch, have_done
from align.core.interrupt import is_interrupt
from align.core.metric import (
    MergedStates,
    finish_metric,
    named_apart,
    prepare_metric,
    update_metric,
)
from align.engine.guard import GuardedReward
from align.engine.memory import DeviceMemory
from align.engine.meter import Meter
from align.io import files
from align.io.files import write
from align.io.images import batches_of
from align.io.listed_pictures import MANY, ListedPicture, require_whole
from align.io.numbers import with_error
from align.io.text import csv_text, first_lines
from align.recipe.scoring import Scoring
from align.report.schema import moments
from align.report.table import to_markdown
from align.runner.block import Block
from align.runner.build import Rewards, device_of
from align.runner.folder import check_folder
from align.runner.observers import ends_in_order
from align.runner.record import held

FILES: Final = ("table.md", "table.csv", "scores.csv")
_BLOCKS: Final = "score_blocks"
_BLOCK: Final = 256  # pictures of a block
_ROWS: Final = 32  # pictures that are read at once


@final
@attrs.frozen
class FolderScores:
    """What rewards and metrics say of pictures.

    Attributes:
        pictures: in their order.
        scores: of each picture, by the name of the reward; NaN where one is missing.
        metrics: numbers of all pictures together.
        failures: why a metric has no numbers, such as too few pictures.
    """

    pictures: tuple[ListedPicture, ...]
    scores: dict[str, list[float]]
    metrics: dict[str, float]
    failures: tuple[str, ...] = ()

    def numbers(self) -> dict[str, tuple[float, float | None]]:
        """Every number by its name, with its standard error where it is a mean over pictures."""
        means = {name: moments(scores) for name, scores in self.scores.items()}
        return {**means, **{name: (value, None) for name, value in self.metrics.items()}}

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Heads and cells of a table with a row for each number."""
        shown = [[name, with_error(*number)] for name, number in self.numbers().items()]
        return ["number", f"of {len(self.pictures)} pictures"], shown

    def save(self, folder: Path) -> None:
        """Write table.md, table.csv and scores.csv."""
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / FILES[0], to_markdown(*self.rows(), []))
        numbers = [
            [name, repr(value), "" if error is None else repr(error)]
            for name, (value, error) in self.numbers().items()
        ]
        write(folder / FILES[1], csv_text([["number", "value", "error"], *numbers]))
        names = list(self.scores)
        each = [
            [picture.name, picture.prompt, *(repr(self.scores[name][n]) for name in names)]
            for n, picture in enumerate(self.pictures)
        ]
        write(folder / FILES[2], csv_text([["file", "prompt", *names], *each]))


def score_pictures(
    pictures: Sequence[ListedPicture],
    scoring: Scoring,
    out: Path,
    device: str = "auto",
    watch: Callable[[int], object] = lambda count: None,
) -> FolderScores:
    """Score pictures by rewards, measure them by metrics, and write the numbers into a folder.

    They are scored in blocks, which are kept in the folder until all are done: when it is stopped,
    the same call goes on. The numbers are the same to the bit whoever scores the blocks, on the
    same kind of machine with the same number of threads.

    Args:
        pictures: in files.
        scoring: the rewards and metrics, and who scores the blocks.
        out: the folder.
        device: where rewards and metrics compute, "auto", "cpu" or "cuda".
        watch: is told how many pictures have been scored since it was told last.

    Raises:
        PartError: before anything is scored: with one line for every file that is no picture; or a
            reference or the network of a metric cannot be loaded.
        PromptError: with one line for every prompt that a reward cannot follow.
        TakenError: another process writes into the folder.
        AlignError: what a part raised, or a process that was lost too often.
    """
    check_folder(out)
    _check_prompts(pictures, scoring)
    require_whole(list(pictures))
    for metric in scoring.metric:
        prepare_metric(metric, device_of(device))
    job = ScoreJob.of(pictures, scoring, out, device)
    tasks = _tasks(len(pictures))
    with ends_in_order(), held(out, job.digest, "--out"):
        try:
            _have_scored(job, tasks, scoring.on, watch)
        except BaseException as error:
            if is_interrupt(error) and any(map(job.is_done, tasks)):
                error.add_note(f"what is scored is in '{out}', and the same command goes on")
            raise
        whole = Block.joined(map(job.read, tasks), scoring.metric)
        scores = _measured(pictures, scoring, whole)
        scores.save(out)
        files.remove(out / _BLOCKS)
    return scores


def _tasks(pictures: int) -> list[Task]:
    """The blocks of so many pictures."""
    starts = range(0, pictures, _BLOCK)
    counts = [min(_BLOCK, pictures - first) for first in starts]
    return [
        Task(name=f"scores of pictures {first + 1} to {first + count}", first=first, count=count)
        for first, count in zip(starts, counts, strict=True)
    ]


def _have_scored(
    job: ScoreJob, tasks: Sequence[Task], on: Executor | None, watch: Callable[[int], object]
) -> None:
    """Have done those of the tasks that are not done yet."""
    todo = [task for task in tasks if not job.holds(task)]
    if len(todo) < len(tasks):
        text = "{} of {} blocks are there from before, and are not scored again"
        logger.bind(notice=True).info(text, len(tasks) - len(todo), len(tasks))
        watch(sum(task.count for task in tasks if task not in todo))
    if on is not None:
        have_done(on, job, todo, _Told(watch), job.folder)
        return
    for task in todo:
        job.score(task, watch)


@final
@attrs.frozen
class _Told(Watch):
    """Tells of the pictures of blocks that an executor has had done."""

    watch: Callable[[int], object]

    def done(self, task: Task) -> None:
        """Tell of a block."""
        self.watch(task.count)

    def check(self) -> None:
        """Ctrl-C interrupts the command itself."""


@final
@attrs.frozen(eq=False)
class ScoreJob(Job):
    """Blocks of pictures that are scored.

    Attributes:
        folder: that scores are written into.
        cwd: the folder that paths start from.
        device: where rewards and metrics compute.
        digest: of the pictures, their prompts, and all that they are scored by.
        pictures: in their order.
        scoring: the rewards and metrics.
    """

    folder: str
    cwd: str
    device: str
    digest: str
    pictures: tuple[ListedPicture, ...]
    scoring: Scoring

    @classmethod
    def of(
        cls, pictures: Sequence[ListedPicture], scoring: Scoring, out: Path, device: str
    ) -> ScoreJob:
        """What there is to do; raises PartError for a file that cannot be read."""
        each = [[picture.name, picture.prompt, _content(picture)] for picture in pictures]
        digest = files.digest(json.dumps([scoring.digest(), each]).encode())
        plain = attrs.evolve(scoring, on=None)  # whose plugin need not be where the job goes
        return cls(str(out.absolute()), str(Path.cwd()), device, digest, tuple(pictures), plain)

    def perform(self, task: Task) -> None:
        """Do a task, with what this process has loaded for those before."""
        self.score(task)

    def is_done(self, task: Task) -> bool:
        """Whether its file has its name."""
        return self._path(task).exists()

    @torch.no_grad()
    def score(self, task: Task, watch: Callable[[int], object] = lambda count: None) -> None:
        """Do a task; `watch` is told how many pictures have been scored since it was told last."""
        os.chdir(self.cwd)
        device, rewards = _loaded(self)
        scores: dict[str, list[Tensor]] = {reward.name: [] for reward in rewards}
        merged = [MergedStates(metric) for metric in self.scoring.metric]
        for batch, data in _batches(self.pictures[task.first : task.first + task.count]):
            there = data.to(device)
            prompts = tuple(picture.prompt for picture in batch)
            for reward in rewards:
                scores[reward.name].append(reward.score(there, prompts).cpu())
            for states in merged:
                states.add(update_metric(states.metric, there))
            watch(len(batch))
        block = Block(
            samples=task.count,
            scores={name: torch.cat(parts) for name, parts in scores.items()},
            kept=tuple(states.state() for states in merged),
        )
        files.write(self._path(task), block.packed(self._about(task)))

    def holds(self, task: Task) -> bool:
        """Whether a task is done, and of the same pictures and parts; what is not is removed."""
        block = self._found(task)
        if block is None:
            files.remove(self._path(task))
        return block is not None

    def read(self, task: Task) -> Block:
        """What a task has made; raises PartError if it is not there."""
        block = self._found(task)
        if block is None:
            raise PartError(f"'{self._path(task)}' is gone or damaged; run the command again")
        return block

    def _found(self, task: Task) -> Block | None:
        path = self._path(task)
        return Block.unpacked(path.read_bytes(), self._about(task)) if path.is_file() else None

    def _about(self, task: Task) -> dict[str, Any]:
        return {"digest": self.digest, "first": task.first, "count": task.count}

    def _path(self, task: Task) -> Path:
        return Path(self.folder) / _BLOCKS / f"{task.first}.safetensors"


def _content(picture: ListedPicture) -> str:
    """The digest of a picture's file."""
    try:
        return files.digest(picture.path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise PartError(f"'{picture.path}' cannot be read: {reason}") from error


@functools.lru_cache(maxsize=1)
def _loaded(job: ScoreJob) -> tuple[torch.device, list[GuardedReward]]:
    """The device of a process, and the rewards on it."""
    device, terms = device_of(job.device), job.scoring.reward
    meter, chunks = Meter(), Chunks(64 if device.type == "cpu" else 256, DeviceMemory(device))
    rewards = zip(terms, Rewards(terms, device).loaded(), strict=True)
    return device, [
        GuardedReward(reward, term.name, meter, chunks, may_miss=term.part.may_miss)
        for term, reward in rewards
    ]


def _measured(pictures: Sequence[ListedPicture], scoring: Scoring, whole: Block) -> FolderScores:
    """The numbers of all pictures."""
    found, failures = list[dict[str, float]](), list[str]()
    for metric, state in zip(scoring.metric, whole.kept, strict=True):
        try:
            found.append(finish_metric(metric, state, None))
        except AlignError as error:  # which takes nothing from what is measured already
            failures.append(str(error))
    scores = {name: values.tolist() for name, values in whole.scores.items()}
    (numbers,) = named_apart([found], scores)
    return FolderScores(tuple(pictures), scores, numbers, tuple(failures))


def _batches(
    pictures: Sequence[ListedPicture],
) -> Iterator[tuple[Sequence[ListedPicture], Tensor]]:
    """Pictures of one size that follow each other, (B, 3, H, W) in [0, 1]."""
    first = 0
    for data in batches_of((picture.path for picture in pictures), _ROWS):
        yield pictures[first : first + len(data)], data
        first += len(data)


def _check_prompts(pictures: Sequence[ListedPicture], scoring: Scoring) -> None:
    """Raise an error of one line for each prompt that a reward cannot follow."""
    needing = [term for term in scoring.reward if term.part.needs_prompt]
    if needing and not any(picture.place for picture in pictures):
        raise PartError(
            f"reward '{needing[0].name}' compares pictures with prompts; name a file that has them,"
            " --prompts FILE, a .csv or .jsonl with the columns 'file' and 'prompt'"
        )
    errors = list[str]()
    for term in needing:
        for picture in pictures:
            reason = "an empty prompt; write one" if not picture.prompt.strip() else ""
            try:
                with attributed(f"reward '{term.name}': check_prompt"):
                    term.part.check_prompt(picture.prompt)
            except PromptError as error:
                reason = reason or str(error)
            if reason:
                errors.append(f"{picture.place}: reward '{term.name}': {reason}")
    if errors:
        raise PromptError("\n".join(first_lines(errors, MANY)))
