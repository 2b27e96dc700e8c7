"""The progress bar of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Final, Self, final

import attrs
import rich.progress as rich
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from align.io import terminal
from align.io.numbers import rounded
from align.io.text import shortened
from align.report.schema import shown_name

_LETTERS: Final = 40
_FEW: Final = 20  # letters of a name where there is no room for all of it beside the rest
_FEWEST: Final = 8
_BAR: Final = 24  # columns
_SHORTEST: Final = 8
_EXPENDABLE: Final = ("speed", "bar", "elapsed", "number", "left")  # where it is narrow, in turn


@final
class Progress:
    """One line an arm: steps done, r so far (or the loss), speed and time left.

    r is what the arm optimises, under the same name as in the table of the run. A line is never
    wider than the terminal: what matters least is left out.

    Args:
        shown: whether it is.
        console: where; the terminal, unless another is given.
    """

    def __init__(self, *, shown: bool, console: Console | None = None) -> None:
        self._bar = _Bars(console=console or terminal.console(stderr=True), disable=not shown)
        self._tasks: dict[str, rich.TaskID] = {}

    def begin(self, arm: str, steps: int, share: Callable[[], float] | None = None) -> None:
        """An arm begins.

        Args:
            arm: its name.
            steps: that it will take.
            share: what is done of it, from 0 to 1, where that is known within a step too.
        """
        if arm not in self._tasks:
            self._tasks[arm] = self._bar.add_task(
                shortened(arm, _LETTERS), total=steps, number="", speed="", share=share, first=None
            )

    def step(
        self,
        arm: str,
        index: int,
        steps: int,
        numbers: Mapping[str, float],
        rows: int = 0,
        unit: str = "steps",
    ) -> None:
        """Step `index` of `steps` is done; in training, it saw so many rows of data.

        What is counted may be another `unit`, such as samples that are made elsewhere.
        """
        self.begin(arm, steps)
        shown = next((name for name in ("reward", "loss") if name in numbers), None)
        number = f"{shown_name(shown)} {rounded(numbers[shown])}" if shown else ""
        task = self._bar.tasks[self._tasks[arm]]
        if task.fields["first"] is None:  # what it goes on from took no time here
            task.completed, task.fields["first"] = index, max(0, index) / max(1, steps)
        pace = task.speed
        speed = f"{pace:.2f} {unit}/s" if pace else ""
        speed += f", {pace * rows:.4g} rows/s" if pace and rows else ""
        self._bar.update(task.id, completed=index + 1, number=number, speed=speed)

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


@final
@attrs.frozen
class _Line:
    """What stands on the line of an arm."""

    name: str
    done: float
    texts: Mapping[str, str]

    @classmethod
    def of(cls, task: rich.Task) -> _Line:
        total, share = task.total or 1.0, task.fields["share"]
        done = max(task.completed / total, min(1.0, share()) if share else 0.0)
        left = task.time_remaining
        if share and not task.finished:  # steps may be few, or be taken many at once
            gone = done - (task.fields["first"] or 0.0)
            left = (task.elapsed or 0.0) * (1 - done) / gone if gone > 0 else None
        texts = {
            "count": f"{int(task.completed)}/{int(total)}",
            "number": task.fields["number"],
            "speed": task.fields["speed"],
            "elapsed": _time(task.finished_time if task.finished else task.elapsed),
            "left": _time(left),
        }
        return cls(task.description, done, texts)


class _Bars(rich.Progress):
    """A table of lines that is as wide as the console at most."""

    def make_tasks_table(self, tasks: Iterable[rich.Task]) -> Table:
        """A row an arm, with as many columns as there is room for."""
        lines = [_Line.of(task) for task in tasks if task.visible]
        table = Table.grid(padding=(0, 1))
        if not lines:  # there may be no console yet
            return table
        columns, name, bar = _fitted(lines, self.console.width)
        for _ in columns:
            table.add_column(no_wrap=True)
        for line in lines:
            cells: dict[str, RenderableType] = {
                "name": Text(shortened(line.name, name)),
                "bar": ProgressBar(1.0, line.done, width=bar),
                **{column: Text(text) for column, text in line.texts.items()},
            }
            table.add_row(*(cells[column] for column in columns))
        return table


def _fitted(lines: Iterable[_Line], width: int) -> tuple[list[str], int, int]:
    """The columns that there is room for, and the widths of the name and of the bar."""
    widths = {"name": 0, "bar": _SHORTEST}
    for line in lines:
        for column, text in ("name", line.name), *line.texts.items():
            if text:
                widths[column] = max(widths.get(column, 0), cell_len(text))

    def room() -> int:
        return width - sum(widths.values()) - len(widths)

    whole = widths["name"]
    widths["name"] = min(whole, _FEW)
    for column in _EXPENDABLE:
        if room() < 0:
            widths.pop(column, None)
    widths["name"] = max(_FEWEST, min(whole, widths["name"] + room()))
    return [*widths], widths["name"], min(_BAR, _SHORTEST + max(0, room()))


def _time(seconds: float | None) -> str:
    return "-:--:--" if seconds is None else str(timedelta(seconds=max(0, int(seconds))))
