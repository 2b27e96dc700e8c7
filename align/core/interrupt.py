"""The user's Ctrl-C, told from a KeyboardInterrupt that a part raises."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Final

from align.core.errors import UserInterrupt

_TOLD_APART: Final = ContextVar("_TOLD_APART", default=False)


def is_interrupt(error: BaseException) -> bool:
    """Whether an error comes from the user's Ctrl-C and not from a part."""
    if isinstance(error, KeyboardInterrupt):
        return isinstance(error, UserInterrupt) or not _TOLD_APART.get()
    return False


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
