"""A limit for code that may never come back."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimeLimitError(BaseException):
    """The time is over; says where. It is no Exception, so that code that retries lets it pass."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimitError in the code below once it has taken longer than `seconds`.

    The limit is a signal, which the main thread alone can have, on systems that have SIGALRM.
    Elsewhere there is none. Code that catches the error is interrupted again every second. A timer
    that was running before goes on afterwards.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "SIGALRM"):
        yield
        return

    def interrupt(_: int, frame: FrameType | None) -> None:
        place = f"{frame.f_code.co_filename}, line {frame.f_lineno}" if frame else "foreign code"
        raise TimeLimitError(place)

    began = time.monotonic()
    before = signal.signal(signal.SIGALRM, interrupt)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if remaining:
            left = max(1e-3, remaining - (time.monotonic() - began))
            signal.setitimer(signal.ITIMER_REAL, left, interval)
