"""The progress bar of a run."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self, final

import rich.progress as rich
from rich.console import Console

from align.io import terminal
from align.io.text import shortened
from align.report.schema import shown_name

_LETTERS: Final = 40


@final
class Progress:
    """One line an arm: steps done, r so far (or the loss), speed and time left.

    r is what the arm optimises, under the same name as in the table of the run.

    Args:
        shown: whether it is.
        console: where; the terminal, unless another is given.
    """

    def __init__(self, *, shown: bool, console: Console | None = None) -> None:
        self._bar = rich.Progress(
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(bar_width=24),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[number]}", markup=False),
            rich.TextColumn("{task.fields[speed]}"),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
            console=console or terminal.console(stderr=True),
            disable=not shown,
        )
        self._tasks: dict[str, rich.TaskID] = {}

    def step(
        self, arm: str, index: int, steps: int, numbers: Mapping[str, float], rows: int = 0
    ) -> None:
        """Step `index` of `steps` is done; in training, it saw so many rows of data."""
        if arm not in self._tasks:
            self._tasks[arm] = self._bar.add_task(
                shortened(arm, _LETTERS), total=steps, completed=index, number="", speed=""
            )
        shown = next((name for name in ("reward", "loss") if name in numbers), None)
        number = f"{shown_name(shown)} {numbers[shown]:.4g}" if shown else ""
        task = self._tasks[arm]
        pace = self._bar.tasks[task].speed
        speed = f"{pace:.2f} steps/s" if pace else ""
        speed += f", {pace * rows:.4g} rows/s" if pace and rows else ""
        self._bar.update(task, completed=index + 1, number=number, speed=speed)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
