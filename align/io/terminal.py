"""What is shown on a terminal, whatever it can show: a run does not fail because of its output.

Output may go into a pipe that was closed, onto a full disk or nowhere; it may be in ASCII; and
names of users may be any text.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

_ASCII: Final = str.maketrans({"±": "+-", "…": "...", "−": "-", "–": "-", "—": "-", "×": "x"})


class _Patient:
    """A stream that drops what cannot be written, and escapes letters that it does not have."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        """Why not everything could be written, unless it is that nobody reads it any more."""

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # whoever writes there writes past this
            raise AttributeError(name)
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    def write(self, text: str | bytes) -> int:
        """Write text, as far as it can be done; click writes some of it as bytes in UTF-8."""
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                known = self._stream.encoding
                escaped = text.translate(_ASCII).encode(known, "backslashreplace")
                self._stream.write(escaped.decode(known))
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self._drop(error)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write texts, as far as it can be done."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send on what was written, as far as it can be done."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._drop(error)

    def _drop(self, error: Exception) -> None:
        """Send what is left, and what Python writes at its end, nowhere."""
        if isinstance(error, OSError) and error.errno != errno.EPIPE:
            self.failure = self.failure or error
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def patient() -> Iterator[Callable[[], str]]:
    """Let nothing that is printed fail, on both streams of the process.

    Yields:
        Says why standard output could not be written, in one line; nothing where all is well, and
        where its reader, or nobody, wanted no more of it.
    """
    before = sys.stdout, sys.stderr
    streams = [_Patient(stream) if stream else None for stream in before]
    output = streams[0]

    def failure() -> str:
        if output is None:
            return ""
        output.flush()
        if (error := output.failure) is None:
            return ""
        return (error.strerror or str(error)).lower()

    sys.stdout, sys.stderr = (cast("TextIO", stream) for stream in streams)
    try:
        yield failure
    finally:
        for stream in filter(None, streams):
            stream.flush()
        sys.stdout, sys.stderr = before


def console(*, stderr: bool = False) -> Console:
    """Where tables and progress are shown: text as it is, without markup or codes of emoji."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)
