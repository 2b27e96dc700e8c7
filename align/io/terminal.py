"""What is shown on a terminal, whatever it can show: a run does not fail because of its output.

Output may go into a pipe that was closed, onto a full disk or nowhere; it may be in ASCII; and
names of users may be any text.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO, cast

from rich.console import Console

_ASCII: Final = str.maketrans({"±": "+-", "…": "...", "−": "-", "–": "-", "—": "-", "×": "x"})


class _Patient:
    """A stream that drops what cannot be written, and escapes letters that it does not have."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # whoever writes there writes past this
            raise AttributeError(name)
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    def write(self, text: str) -> int:
        """Write text, as far as it can be done."""
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                known = self._stream.encoding
                escaped = text.translate(_ASCII).encode(known, "backslashreplace")
                self._stream.write(escaped.decode(known))
        except (OSError, ValueError):  # ValueError: it was closed
            self._drop()
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write texts, as far as it can be done."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send on what was written, as far as it can be done."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._drop()

    def _drop(self) -> None:
        """Send what is left, and what Python writes at its end, nowhere."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def patient() -> Iterator[None]:
    """Let nothing that is printed fail, on both streams of the process."""
    before = sys.stdout, sys.stderr
    streams = [stream and cast("TextIO", _Patient(stream)) for stream in before]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        for stream in filter(None, streams):
            stream.flush()
        sys.stdout, sys.stderr = before


def console(*, stderr: bool = False) -> Console:
    """Where tables and progress are shown: text as it is, without markup or codes of emoji."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)
