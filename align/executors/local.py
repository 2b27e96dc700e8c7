"""Blocks of a run in several processes on this machine."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import IO, Any, ClassVar, Final, final

import attrs
import torch
from loguru import logger

from align.core.errors import PartError
from align.core.executor import Executor, Failure, Job, Task, Watch
from align.core.option import at_least, option
from align.executors.process import receive, send

_POLL: Final = 0.2  # seconds between two looks whether the user wants the run to stop
_REMEMBERED: Final = 20  # last lines that a process has written
_MODULE: Final = "align.executors.process"


@final
@attrs.frozen(kw_only=True)
class Local(Executor):
    """Several processes on this machine.

    There is one for each CUDA device, or as many as there are cores. Any number of them makes
    samples and scores of the same bits, as each has the same number of threads. A process that dies
    is replaced, and its block made again.
    """

    kind: ClassVar[str] = "local"

    workers: int = option(
        "number of processes; 0 for one a CUDA device, or as many as the cores suffice for",
        default=0,
        check=at_least(0),
    )
    threads: int = option("threads of each process", default=1, check=at_least(1))
    retries: int = option(
        "how often a block is made again whose process has died", default=2, check=at_least(0)
    )

    def run(self, job: Job, tasks: Sequence[Task], watch: Watch) -> None:
        """Have all tasks done; see `Executor.run`."""
        devices = torch.cuda.device_count()
        count = min(len(tasks), self.workers or devices or self._cores())
        crew = _Crew(job, tasks, self.threads, self.retries)
        try:
            for number in range(count):
                crew.hire(str(number % devices) if devices else None)
            while crew.left:
                watch.check()
                if (task := crew.next_done()) is not None:
                    watch.done(task)
        finally:
            crew.dismiss()

    def _cores(self) -> int:
        """How many processes the cores of this machine that we may use suffice for."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return max(1, (cores or 1) // self.threads)


@final
class _Crew:
    """Threads that each have a process do tasks, until none are left."""

    def __init__(self, job: Job, tasks: Sequence[Task], threads: int, retries: int) -> None:
        self.left = len(tasks)
        self._job, self._threads, self._retries = job, threads, retries
        self._waiting: deque[Task] = deque(tasks)
        self._deaths: Counter[Task] = Counter()
        self._ended: queue.Queue[Task | Exception] = queue.Queue()
        self._lock, self._dismissed = threading.Lock(), False
        self._processes: set[_Process] = set()
        self._members: list[threading.Thread] = []

    def hire(self, device: str | None) -> None:
        """Let one more process do tasks, which sees this CUDA device alone."""
        member = threading.Thread(target=self._work, args=(device,), daemon=True)
        self._members.append(member)
        member.start()

    def next_done(self) -> Task | None:
        """A task that is done now; None if none is done soon. Raises what a task has raised."""
        try:
            ended = self._ended.get(timeout=_POLL)
        except queue.Empty:
            return None
        if isinstance(ended, Exception):
            raise ended
        self.left -= 1
        return ended

    def dismiss(self) -> None:
        """End all processes."""
        with self._lock:
            self._dismissed = True
            for process in self._processes:
                process.end()
        for member in self._members:
            member.join()

    def _work(self, device: str | None) -> None:
        process: _Process | None = None
        try:
            while (task := self._taken()) is not None:
                process = process or self._started(device)
                if process is None:
                    return
                try:
                    failure = process.ask(task)
                except EOFError:
                    self._lost(task, process.told())
                    self._closed(process)
                    process = None
                    continue
                self._ended.put(failure.error(task.name) if failure else task)
        except Exception as error:  # of starting a process
            self._ended.put(error)
        finally:
            if process is not None:
                self._closed(process)

    def _taken(self) -> Task | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting and not self._dismissed else None

    def _started(self, device: str | None) -> _Process | None:
        with self._lock:
            if self._dismissed:
                return None
            process = _Process(self._job, self._threads, device)
            self._processes.add(process)
            return process

    def _closed(self, process: _Process) -> None:
        process.end()
        with self._lock:
            self._processes.discard(process)

    def _lost(self, task: Task, why: str) -> None:
        """A process has died while it did a task, which is given to another, or ends the run."""
        with self._lock:
            if self._dismissed:
                return
            self._deaths[task] += 1
            deaths = self._deaths[task]
            if deaths <= self._retries:
                self._waiting.appendleft(task)
        if deaths <= self._retries:
            text = "a process died while it made {} ({}); they are made again"
            logger.bind(notice=True).warning(text, task.name, why)
            return
        times = "once" if deaths == 1 else f"{deaths} times"
        text = f"run.on: the process that made {task.name} died {times} ({why})"
        cure = "fewer of run.on.workers or run.chunk take less memory"
        self._ended.put(PartError(f"{text}; {cure}; what is finished is kept"))


@final
class _Process:
    """A process that does tasks."""

    def __init__(self, job: Job, threads: int, device: str | None) -> None:
        mine = {} if device is None else {"CUDA_VISIBLE_DEVICES": _visible(device)}
        environment = {**os.environ, **mine, "OMP_NUM_THREADS": str(threads)}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_with_path(environment),
                start_new_session=True,  # Ctrl-C is for us alone; we end the process
            )
        except OSError as error:
            raise PartError(f"run.on: '{sys.executable}' cannot be started: {error}") from error
        self._lines: deque[str] = deque(maxlen=_REMEMBERED)
        stderr = _open(self._process.stderr)
        self._listener = threading.Thread(target=self._listen, args=(stderr,), daemon=True)
        self._listener.start()
        self._greeting: tuple[list[str], int, Job] | None = (sys.path, threads, job)

    def ask(self, task: Task) -> Failure | None:
        """Have a task done; raises EOFError if the process dies meanwhile."""
        try:
            if self._greeting is not None:
                send(_open(self._process.stdin), self._greeting)
                self._greeting = None
            send(_open(self._process.stdin), task)
            answer: Failure | None = receive(_open(self._process.stdout))
        except OSError as error:
            raise EOFError from error
        return answer

    def told(self) -> str:
        """How the process died, and the last line that it has written."""
        code = self._process.wait()
        self._listener.join(1)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{how}; its last words: {self._lines[-1]}" if self._lines and code >= 0 else how

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                _open(pipe).close()
            except OSError:  # what was left in the pipe has no reader
                continue

    def _listen(self, stderr: IO[bytes]) -> None:
        with stderr:
            for line in stderr:
                if text := line.decode(errors="replace").rstrip():
                    self._lines.append(text)
                    logger.debug("worker {}: {}", self._process.pid, text)


def _open(pipe: IO[Any] | None) -> Any:
    assert pipe is not None
    return pipe


def _visible(device: str) -> str:
    """The name of a device among those that this process sees."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",")[int(device)].strip() if named else device


def _with_path(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with what this process imports from, for the import of align itself."""
    return {**environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
