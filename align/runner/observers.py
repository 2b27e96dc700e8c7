"""Who watches a run: the record, the progress bar, the plugins, and the user's Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import attrs

from align.catalog.registry import Catalog
from align.core.mode import Info
from align.engine.loop import Observer
from align.runner.progress import Progress
from align.runner.record import Record
from align.training import parallel


@final
@attrs.frozen(eq=False)
class RunObserver(Observer):
    """Tells the record, the progress bar and the plugins how an arm goes on.

    Args:
        arm: its name.
        rows: of data that a step trains on, for the progress bar.
        every: number of steps between checkpoints.
        record: the run folder.
        catalog: of the plugins.
        bar: the progress bar.
        asked: whether the run is to stop.
    """

    arm: str
    rows: int
    every: int
    record: Record
    catalog: Catalog
    bar: Progress
    asked: Callable[[], bool]

    def step(self, index: int, steps: int, state: object, info: Info) -> None:
        """Keep the step's numbers and show them."""
        self.record.step(self.arm, index, info)
        self.bar.step(self.arm, index, steps, info.numbers, self.rows)
        if parallel.first():
            self.catalog.hook.align_step(run=self.record, index=index, state=state, info=info)

    def due(self, index: int) -> bool:
        """Every so many steps."""
        return (index + 1) % self.every == 0

    def stopping(self) -> bool:
        """After Ctrl-C."""
        return self.asked()

    def checkpoint(self, saved: dict[str, Any]) -> None:
        """Keep it in the run folder."""
        self.record.checkpoint(self.arm, saved)


@final
@attrs.frozen
class NullObserver(Observer):
    """Watches without a record."""

    def step(self, index: int, steps: int, state: object, info: Info) -> None:
        """Nothing to tell."""

    def due(self, index: int) -> bool:
        """Never."""
        return False

    def stopping(self) -> bool:
        """Never."""
        return False

    def checkpoint(self, saved: dict[str, Any]) -> None:
        """Nothing to keep."""


@contextmanager
def stop_after_step() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C end the step under way, and a second one end it at once.

    Several processes all stop after the same step, and at SIGTERM too, torchrun's way to end them.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    kinds = (signal.SIGINT, signal.SIGTERM) if parallel.count() > 1 else (signal.SIGINT,)
    before = {kind: signal.signal(kind, ask) for kind in kinds}
    try:
        yield lambda: parallel.anyone(asked.is_set())
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
