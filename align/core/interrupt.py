"""The user's Ctrl-C, told from a KeyboardInterrupt that a part raises."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Final

from align.core.errors import UserInterrupt

_HERE: Final = str(Path(__file__).parents[1]) + os.sep
_TOLD_APART: Final = ContextVar("_TOLD_APART", default=False)


def is_interrupt(error: BaseException) -> bool:
    """Whether an error comes from the user's Ctrl-C and not from a part."""
    if isinstance(error, UserInterrupt):
        return raised_by_align(error)
    return isinstance(error, KeyboardInterrupt) and not _TOLD_APART.get()


def raised_by_align(error: BaseException) -> bool:
    """Whether the code that raised an error is that of `align`, and no plugin's or user's."""
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    return not files or files[-1].startswith(_HERE)


def _raise_user_interrupt(_: int, __: FrameType | None) -> None:
    """A signal handler for Ctrl-C."""
    raise UserInterrupt


@contextmanager
def user_interrupts() -> Iterator[None]:
    """Have Ctrl-C raise `UserInterrupt`, so that a part's own KeyboardInterrupt is told from it.

    Nothing changes outside the main thread, or where somebody else handles Ctrl-C: there every
    KeyboardInterrupt is taken for the user's.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _raise_user_interrupt)
    token = _TOLD_APART.set(True)
    try:
        yield
    finally:
        _TOLD_APART.reset(token)
        signal.signal(signal.SIGINT, signal.default_int_handler)
