"""Our side of a worker: starts it, asks it, waits no longer than allowed, starts it again.

A worker that dies is started once more and asked again, so that no result is lost. Whatever else
interrupts an exchange ends the worker, since its answers would be out of step.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import weakref
from collections import deque
from importlib.metadata import version
from pathlib import Path
from typing import IO, Final, final

import attrs
from loguru import logger

from align import errors
from align.errors import AlignError, PartError
from align.isolation.protocol import VERSION, ConfigRejected, Message, packed, receive

_REMEMBERED: Final = 20  # last lines of a worker's stderr
_MODULE: Final = "align.cli.worker"


class WorkerDied(Exception):
    """The worker is gone, or says what nobody understands."""


@final
@attrs.define(eq=False)
class Worker:
    """An interpreter of another virtual environment, started when it is first asked.

    Args:
        venv: folder of the virtual environment.
        who: what is isolated there, for messages.
        seconds: longest wait for one answer.
    """

    venv: str
    who: str
    seconds: float
    _kept: list[Message] = attrs.field(factory=list, init=False)
    _lock: threading.RLock = attrs.field(factory=threading.RLock, init=False)
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)
    _stderr_tail: deque[str] = attrs.field(factory=lambda: deque(maxlen=_REMEMBERED), init=False)
    _stderr_thread: threading.Thread | None = attrs.field(default=None, init=False)
    _end: weakref.finalize[..., Worker] | None = attrs.field(default=None, init=False)

    def ask(self, request: Message, *, keep: bool = False) -> Message:
        """The reply to a request.

        Args:
            request: what is asked.
            keep: whether a worker that is started again must hear it first.

        Raises:
            PartError: there is no such worker, it died twice, or it did not answer in time.
            Refused: it was asked to read a table with mistakes.
            AlignError: whatever the reward raised.
            RuntimeError: a defect of the reward, with its traceback.
        """
        with self._lock:
            try:
                reply = self._exchange(request)
            except WorkerDied as death:
                logger.warning("{}; it is started again", death)
                try:
                    reply = self._exchange(request)
                except WorkerDied as again:
                    raise PartError(f"{again}, and again after a new start") from again
            if reply.type == "error":
                raise self._raised(reply)
            if keep:
                self._kept = [m for m in self._kept if m.type != request.type] + [request]
            return reply

    def close(self) -> None:
        """End the process; a later request starts another."""
        with self._lock:
            if self._end is not None:
                self._end()
            if self._stderr_thread is not None:
                self._stderr_thread.join(1)
            self._process = self._stderr_thread = self._end = None

    def _exchange(self, request: Message) -> Message:
        try:
            if self._process is None:
                self._start()
                for earlier in self._kept:
                    reply = self._answer(earlier)
                    if reply.type == "error":
                        raise self._raised(reply)
            return self._answer(request)
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        python = interpreter(self.venv)
        # Of what would lead to our own packages nothing is passed on.
        hidden = ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__")
        try:
            process = subprocess.Popen(
                [python, "-P", "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={name: value for name, value in os.environ.items() if name not in hidden},
                start_new_session=True,  # Ctrl-C is for us alone; we end the worker
            )
        except OSError as error:
            raise PartError(f"no worker could be started in '{self.venv}': {error}") from error
        self._process, self._end = process, weakref.finalize(self, _finish, process)
        self._stderr_tail.clear()
        assert process.stderr is not None
        self._stderr_thread = threading.Thread(
            target=_listen, args=(process.stderr, self._stderr_tail, self.who), daemon=True
        )
        self._stderr_thread.start()
        try:
            hello = self._answer(None)
        except WorkerDied as death:
            raise PartError(self._unable(python)) from death
        if hello.said.get("protocol") != VERSION:
            theirs = hello.said.get("version")
            ours = f"and here is {version('align-core')}; install the same"
            raise PartError(f"'{self.venv}' has align-core {theirs}, {ours}")

    def _unable(self, python: str) -> str:
        """Why there is no worker."""
        said = self._heard()
        if f"No module named '{_MODULE.partition('.')[0]}'" in said or f"named {_MODULE}" in said:
            text = f"'{self.venv}' has no align-core, or an older one"
            return f"{text}; install it with `{python} -m pip install align-core`"
        return f"no worker could be started in '{self.venv}'; it said: {said or 'nothing'}"

    def _answer(self, request: Message | None) -> Message:
        """Send a request, if there is one, and wait for what comes."""
        process, late = self._process, threading.Event()
        sent = packed(request) if request else b""
        assert process is not None and process.stdin is not None and process.stdout is not None

        def give_up() -> None:
            late.set()
            process.kill()

        clock = threading.Timer(self.seconds, give_up)
        clock.daemon = True
        clock.start()
        try:
            process.stdin.write(sent)
            process.stdin.flush()
            reply = receive(process.stdout)
        except (OSError, EOFError):
            reply = None
        except ValueError as error:
            raise WorkerDied(f"{self.who} is out of step ({error}){self._last()}") from error
        finally:
            clock.cancel()
        if reply is not None:
            return reply
        if late.is_set():
            text = f"{self.who} did not answer within {self.seconds:g} s"
            raise PartError(f"{text}; raise isolate_timeout if it needs longer{self._last()}")
        process.kill()  # in case that it closed its pipes and lives on
        code = process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise WorkerDied(f"{self.who} died ({how}){self._last()}")

    def _heard(self) -> str:
        """The last lines of the worker's stderr, once it has ended."""
        if self._stderr_thread is not None:
            self._stderr_thread.join(1)
        return "\n".join(self._stderr_tail)

    def _last(self) -> str:
        return f"; its last words: {self._heard()}" if self._stderr_tail else ""

    def _raised(self, reply: Message) -> Exception:
        """What the worker raised, as it would be raised here."""
        kind, text = reply.said["kind"], reply.said["text"]
        if kind == ConfigRejected.__name__:
            return ConfigRejected((tuple(key), said) for key, said in reply.said["faults"])
        known = getattr(errors, kind, None)
        if isinstance(known, type) and issubclass(known, AlignError):
            return known(text)
        return RuntimeError(f"{self.who} raised\n{text}")


def interpreter(venv: str) -> str:
    """The Python of a virtual environment; raises PartError if there is none."""
    place = Path("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    # Not resolved: a virtual environment's python is a link, and its place says which one it is.
    python = Path(venv).absolute() / place
    if not python.is_file():
        text = f"no virtual environment '{venv}' as seen from '{Path.cwd()}'"
        raise PartError(f"{text}: it has no {place}; make one with `python -m venv {venv}`")
    return str(python)


def _listen(stderr: IO[bytes], words: deque[str], who: str) -> None:
    """Keep the last lines of a worker's stderr, and log all."""
    with stderr:
        for line in stderr:
            text = line.decode(errors="replace").rstrip()
            if text:
                words.append(text)
                logger.info("{}: {}", who, text)


def _finish(process: subprocess.Popen[bytes]) -> None:
    """End a worker and take its place from the table of processes."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was left to say finds nobody
                continue
    process.wait()
