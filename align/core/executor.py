"""Executors: which processes do the blocks of a run.

Sample i depends on (seed, i) alone, so that a run is a list of blocks: ranges of samples, of one
arm or of several that go on from each other. What is made of a block is written into the run
folder, and is done once its file has its name. So it does not matter who does which block, in what
order, or how often one has to be begun again.
"""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol, Self, final

import attrs

from align.core import errors
from align.core.attribution import attributed, described
from align.core.chunks import is_out_of_memory
from align.core.errors import AlignError, ContractError, OutOfMemoryError, PartError
from align.core.interrupt import is_interrupt


@final
@attrs.frozen(kw_only=True)
class Task:
    """One block of a run.

    Attributes:
        name: what messages call it, as in "samples 64 to 127 of 'steer'".
        arms: numbers of the arms in the recipe's order, each of which may go on from one before;
            none for samples of the base models.
        first: number of the first sample.
        count: of the samples.
    """

    name: str
    arms: tuple[int, ...] = ()
    first: int = 0
    count: int = 0


class Job(ABC):
    """What there is to do in a run: is pickled, and does one task after the other in a process."""

    @abstractmethod
    def perform(self, task: Task) -> None:
        """Do a task, and write what it makes into the run folder; twice does no harm.

        What is loaded for one task is kept for the next. Raises what the parts of the recipe raise.
        """

    @abstractmethod
    def is_done(self, task: Task) -> bool:
        """Whether all that the task makes is in the run folder."""


class Watch(Protocol):
    """Is told how the tasks of a run go on."""

    def done(self, task: Task) -> None:
        """A task is done."""

    def check(self) -> None:
        """Raise UserInterrupt if the run was asked to stop; ask several times a second."""


@final
@attrs.frozen
class Failure:
    """What a task raised, so that it can be raised in another process.

    Attributes:
        kind: class of a message to the user; empty for a defect.
        text: in one line, or more where a message has them.
        trace: where it was raised.
    """

    kind: str
    text: str
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """What an error says."""
        trace = "".join(traceback.format_exception(error))
        if is_out_of_memory(error):
            return cls(OutOfMemoryError.__name__, str(error), trace)
        if isinstance(error, AlignError):
            return cls(type(error).__name__, str(error), trace)
        return cls("", described(error), trace)

    def error(self, who: str) -> AlignError:
        """The error as it is raised here.

        Args:
            who: did the task, for a defect that says nothing of it.
        """
        known = getattr(errors, self.kind, None) if self.kind else None
        if isinstance(known, type) and issubclass(known, AlignError):
            error: AlignError = known(self.text)
        else:
            error = PartError(f"{who} raised {self.text}; --traceback shows the whole way")
        error.add_note(self.trace)
        return error


def performed(job: Job, task: Task) -> Failure | None:
    """Do a task; what it raised, if it did."""
    try:
        job.perform(task)
    except BaseException as error:  # SystemExit too: a process ends with its tasks
        if is_interrupt(error):
            raise
        return Failure.of(error)
    return None


def have_done(
    executor: Executor, job: Job, tasks: Sequence[Task], watch: Watch, folder: str | Path
) -> None:
    """Have tasks done by an executor, which then has done them.

    Args:
        executor: by which.
        job: what there is to do.
        tasks: of the job.
        watch: is told how they go on.
        folder: that their files are in, as this process sees it.

    Raises:
        ContractError: a task is not done after all.
        PartError: as `Executor.run`; or the executor raised something else than a message.
        UserInterrupt: by `watch.check`.
    """
    with attributed(f"executor '{executor.kind}': run"):
        executor.run(job, tasks, watch)
    if missing := [task for task in tasks if not job.is_done(task)]:
        text = f"executor '{executor.kind}' has ended without {missing[0].name}"
        raise ContractError(f"{text}; does every process see '{folder}' under this path?")


@attrs.frozen(kw_only=True)
class Executor(ABC):
    """Has the tasks of a run done by processes of its own, here or elsewhere.

    Every process sees the run folder under the same path, and has align and the plugins of the
    recipe installed.
    """

    kind: ClassVar[str]

    @abstractmethod
    def run(self, job: Job, tasks: Sequence[Task], watch: Watch) -> None:
        """Have all tasks done: each by `performed(job, task)` in some process.

        `watch.done` is called once for each task, in this process. A process that is lost costs
        the task that it was doing, which is begun again a limited number of times. When the call
        ends, with an error too, no process of it is left.

        Raises:
            PartError: processes cannot be started, or were lost too often.
            AlignError: what a task raised.
            UserInterrupt: by `watch.check`.
        """
