"""Checks of executors, by tasks that write files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, final

import attrs

from align.core.errors import AlignError, DivergedError, UserInterrupt
from align.core.executor import Executor, Job, Task
from align.testing.checks.form import form

COUNT: Final = 5  # tasks


@final
@attrs.frozen
class Files(Job):
    """Tasks that write a file each.

    Attributes:
        folder: of the files.
        failing: name of a task that raises DivergedError.
    """

    folder: str
    failing: str = ""

    def perform(self, task: Task) -> None:
        """Write the number of this process into the task's file."""
        if task.name == self.failing:
            raise DivergedError(f"{task.name} has diverged")
        self.file(task).write_text(str(os.getpid()))

    def is_done(self, task: Task) -> bool:
        """Whether its file is there."""
        return self.file(task).exists()

    def file(self, task: Task) -> Path:
        """The file of a task."""
        return Path(self.folder) / f"{task.first}.txt"


@final
@attrs.define
class Told:
    """Remembers which tasks are done, and may ask to stop.

    Attributes:
        stops: whether it does.
        tasks: that are done.
    """

    stops: bool = False
    tasks: list[Task] = attrs.field(factory=list)

    def done(self, task: Task) -> None:
        """Remember it."""
        self.tasks.append(task)

    def check(self) -> None:
        """Raise UserInterrupt if it is to stop."""
        if self.stops:
            raise UserInterrupt


@final
@attrs.frozen(eq=False)
class Executing:
    """An executor, with an empty folder for each check."""

    part: Executor
    folder: Callable[[], Path]

    def job(self, failing: str = "") -> Files:
        """Tasks with a folder of their own."""
        return Files(str(self.folder()), failing)


def subject(part: Executor, on: Callable[[], Path] | None) -> Executing:
    """The executor; `on` makes a folder that its processes see, by default a temporary one."""
    return Executing(part, on or (lambda: Path(tempfile.mkdtemp())))


def _tasks() -> list[Task]:
    return [Task(name=f"task {n}", arms=(0,), first=n, count=1) for n in range(COUNT)]


def every_task(executing: Executing) -> None:
    """Every task is done, and told once."""
    job, told, tasks = executing.job(), Told(), _tasks()
    executing.part.run(job, tasks, told)
    assert sorted(told.tasks, key=lambda task: task.first) == tasks, "not each task was told once"
    missing = [task.name for task in tasks if not job.is_done(task)]
    assert not missing, f"not done: {', '.join(missing)}"


def failures(executing: Executing) -> None:
    """What a task raises as a message to the user is raised here."""
    told, tasks = Told(), _tasks()
    try:
        executing.part.run(executing.job(failing="task 1"), tasks, told)
    except DivergedError as error:
        assert str(error) == "task 1 has diverged", f"the message became '{error}'"
    except AlignError as error:
        raise AssertionError(f"a DivergedError became a {type(error).__name__}: {error}") from error
    else:
        raise AssertionError("a task has failed, and nothing was raised")
    assert tasks[1] not in told.tasks, "the task that has failed was told as done"


def stopping(executing: Executing) -> None:
    """It asks whether it is to stop, and then leaves tasks undone."""
    told = Told(stops=True)
    try:
        executing.part.run(executing.job(), _tasks(), told)
    except UserInterrupt:
        assert len(told.tasks) < COUNT, "all tasks were done before it asked"
        return
    raise AssertionError("it never calls `check`, or goes on all the same")


CHECKS: Final = (form, every_task, failures, stopping)
