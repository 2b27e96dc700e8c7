"""The side that asks: starts an interpreter of another virtual environment and talks to it.

A process that dies is started once more and asked again, so that no result is lost. Whatever else
interrupts an exchange ends the process, since its answers would be out of step.
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

from align.core.errors import PartError
from align.isolation.asked import raised
from align.isolation.protocol import VERSION, Message, packed, receive

_REMEMBERED: Final = 20  # last lines of a process's stderr
_MODULE: Final = "align.isolation"


class ProcessDied(Exception):
    """The other process is gone, or what it sends is no message."""


@final
@attrs.define(eq=False)
class RewardProcess:
    """An interpreter of another virtual environment, started when it is first asked.

    Args:
        venv: folder of the virtual environment.
        who: the reward that is isolated there, for messages.
        timeout: longest wait for one answer, in seconds.
    """

    venv: str
    who: str
    timeout: float
    _repeated: list[Message] = attrs.field(factory=list, init=False)
    _lock: threading.RLock = attrs.field(factory=threading.RLock, init=False)
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)
    _stderr_tail: deque[str] = attrs.field(factory=lambda: deque(maxlen=_REMEMBERED), init=False)
    _stderr_thread: threading.Thread | None = attrs.field(default=None, init=False)
    _end: weakref.finalize[..., RewardProcess] | None = attrs.field(default=None, init=False)

    def ask(self, request: Message, *, repeat: bool = False) -> Message:
        """The reply to a request.

        Args:
            request: what is asked.
            repeat: whether a process that is started again must hear it first.

        Raises:
            PartError: no process can be started, it died twice, or it did not answer in time; or
                the reward raised something else than a message to the user.
            ConfigErrors: it was asked to read a table with mistakes.
            AlignError: a message of the reward to the user.
        """
        with self._lock:
            try:
                reply = self._exchange(request)
            except ProcessDied as death:
                logger.warning("{}; it is started again", death)
                try:
                    reply = self._exchange(request)
                except ProcessDied as again:
                    raise PartError(f"{again}, and again after a new start") from again
            if reply.type == "error":
                raise raised(self.who, reply)
            if repeat:
                earlier = [m for m in self._repeated if m.type != request.type]
                self._repeated = [*earlier, request]
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
                for earlier in self._repeated:
                    reply = self._answer(earlier)
                    if reply.type == "error":
                        raise raised(self.who, reply)
            return self._answer(request)
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        python = python_of(self.venv)
        # Nothing is passed on that would lead to the packages of this interpreter.
        hidden = ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__")
        try:
            process = subprocess.Popen(
                [python, "-P", "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={name: value for name, value in os.environ.items() if name not in hidden},
                start_new_session=True,  # Ctrl-C is for us alone; we end the process
            )
        except OSError as error:
            raise PartError(f"'{python}' cannot be started: {error}") from error
        self._process, self._end = process, weakref.finalize(self, _finish, process)
        self._stderr_tail.clear()
        assert process.stderr is not None
        self._stderr_thread = threading.Thread(
            target=_listen, args=(process.stderr, self._stderr_tail, self.who), daemon=True
        )
        self._stderr_thread.start()
        try:
            hello = self._answer(None)
        except ProcessDied as death:
            raise PartError(self._why_not_started(python)) from death
        if hello.payload.get("protocol") != VERSION:
            theirs = hello.payload.get("version")
            ours = f"and here is {version('align-core')}; install the same"
            raise PartError(f"'{self.venv}' has align-core {theirs}, {ours}")

    def _why_not_started(self, python: str) -> str:
        lines = self._last_lines()
        if f"No module named '{_MODULE.partition('.')[0]}'" in lines or f"named {_MODULE}" in lines:
            text = f"'{self.venv}' has no align-core, or an older one"
            return f"{text}; install it with `{python} -m pip install align-core`"
        last = lines.rpartition("\n")[2]
        return f"'{python}' does not run align; its output ends in: {last or 'nothing'}"

    def _answer(self, request: Message | None) -> Message:
        """Send a request, if there is one, and wait for the next message."""
        process, late = self._process, threading.Event()
        request_bytes = packed(request) if request else b""
        assert process is not None and process.stdin is not None and process.stdout is not None

        def give_up() -> None:
            late.set()
            process.kill()

        clock = threading.Timer(min(self.timeout, threading.TIMEOUT_MAX), give_up)
        clock.daemon = True
        clock.start()
        try:
            process.stdin.write(request_bytes)
            process.stdin.flush()
            reply = receive(process.stdout)
        except (OSError, EOFError):
            reply = None
        except ValueError as error:
            raise ProcessDied(f"{self.who} is out of step ({error}){self._output()}") from error
        finally:
            clock.cancel()
        if reply is not None:
            return reply
        if late.is_set():
            text = f"{self.who} did not answer within {self.timeout:g} s"
            raise PartError(f"{text}; raise its timeout if it needs longer{self._output()}")
        process.kill()  # in case that it closed its pipes and lives on
        code = process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise ProcessDied(f"{self.who} died ({how}){self._output()}")

    def _last_lines(self) -> str:
        """The last lines of the process's stderr, once it has ended."""
        if self._stderr_thread is not None:
            self._stderr_thread.join(1)
        return "\n".join(self._stderr_tail)

    def _output(self) -> str:
        return f"; its last output: {self._last_lines()}" if self._stderr_tail else ""


def python_of(venv: str) -> str:
    """The Python of a virtual environment; raises PartError if there is none."""
    place = Path("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    # Not resolved: a virtual environment's python is a link, and its place says which one it is.
    python = Path(venv).expanduser().absolute() / place
    if not python.is_file():
        text = f"no virtual environment '{venv}' as seen from '{Path.cwd()}'"
        raise PartError(f"{text}: it has no {place}; make one with `python -m venv {venv}`")
    return str(python)


def _listen(stderr: IO[bytes], tail: deque[str], who: str) -> None:
    """Log all lines of a process's stderr, and remember the last."""
    with stderr:
        for line in stderr:
            text = line.decode(errors="replace").rstrip()
            if text:
                tail.append(text)
                logger.info("{}: {}", who, text)


def _finish(process: subprocess.Popen[bytes]) -> None:
    """End a process and take its place from the table of processes."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was left in the pipe has no reader
                continue
    process.wait()
