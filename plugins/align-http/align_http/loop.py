"""A thread that sends requests, and waits for many answers at once, whoever else has a loop."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

_LOCK: Final = threading.Lock()
_running: asyncio.AbstractEventLoop | None = None


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """What the work returns; whoever interrupts the wait ends the work too."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _loop() -> asyncio.AbstractEventLoop:
    """The loop of this process, started when it is first needed."""
    global _running
    with _LOCK:
        if _running is None:
            _running = asyncio.new_event_loop()
            thread = threading.Thread(target=_running.run_forever, name="align-http", daemon=True)
            thread.start()
            atexit.register(_end, _running, thread)
        return _running


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join(1)
    if not thread.is_alive():
        loop.close()


def _forget() -> None:
    """A forked process has the loop, but not its thread."""
    global _running
    _running = None


os.register_at_fork(after_in_child=_forget)
