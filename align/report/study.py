"""What a study found: a table, and a plot with a panel for each of its circumstances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from align.core.study import Findings, Point
from align.io.numbers import with_error
from align.report.letters import plot_text
from align.report.plots import plain_ticks, save_figure
from align.report.schema import ArmNumbers

WIDE = 5.0  # lengths that span this factor are shown on a logarithmic axis


def study_rows(arms: Sequence[ArmNumbers]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: a row an arm and number of calls, a column a panel.

    The head of the first column says what was measured, if those of the panels do not.
    """
    panels, first = panel_names(arms), _findings(arms[0])
    corner = "arm" if panels == [""] or first.measures else first.value
    heads = [corner, first.calls, *(panel or first.value for panel in panels)]
    cells = []
    for arm in arms:
        rows: dict[float, dict[str, str]] = {}
        for point in _findings(arm).points:
            shown = with_error(point.value, point.error)
            rows.setdefault(point.calls, {})[point.panel] = shown
        for calls, values in rows.items():
            cells.append([arm.name, f"{calls:g}", *(values.get(panel, "") for panel in panels)])
    return heads, cells


def study_notes(arms: Sequence[ArmNumbers]) -> list[str]:
    """What must be said beside it, once."""
    return list(dict.fromkeys(note for arm in arms for note in _findings(arm).notes))


def plot(folder: Path, arms: Sequence[ArmNumbers]) -> None:
    """Write study.png: values over NFE, a line an arm; dashed where there are no calls.

    All panels have one scale. Where each is a measure of its own, it is a row of dots instead.
    """
    names, first = panel_names(arms), _findings(arms[0])
    if first.measures:
        _plot_measures(folder, arms, names)
        return
    figure = Figure(figsize=(2.2 + max(4.2, 2.7 * len(names)), 3.6), layout="constrained")
    row = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(row, names, strict=True):
        study_panel(axes, arms, name)
        axes.set_title(plot_text(name), fontsize=10)
        axes.set_ylabel("")
    row[0].set_ylabel(plot_text(first.value.replace("_", " ")))
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    save_figure(figure, folder / "study.png")


def _plot_measures(folder: Path, arms: Sequence[ArmNumbers], names: Sequence[str]) -> None:
    """Write study.png for measures: a panel each, a line an arm."""
    across = min(4, len(names))
    down = -(-len(names) // across)
    size = (1.5 + 2.6 * across, down * (0.9 + 0.24 * len(arms)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, sharey=True, squeeze=False)
    for place, axes in enumerate(panels.flat):
        if place < len(names):
            study_panel(axes, arms, names[place])
            axes.set_title(plot_text(names[place]), fontsize=10)
            axes.set_xlabel("")
        else:
            axes.set_axis_off()
    save_figure(figure, folder / "study.png")


def _dots(axes: Axes, arms: Sequence[ArmNumbers], name: str) -> None:
    """A measure of each arm with its error, the first arm at the top."""
    for place, arm in enumerate(arms):
        for point in _findings(arm).points:
            if point.panel == name:
                axes.errorbar(
                    point.value,
                    place,
                    xerr=point.error,
                    fmt="o",
                    markersize=4,
                    color="C0",
                )
    axes.set_yticks(range(len(arms)), [plot_text(arm.name) for arm in arms], fontsize=8)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel(plot_text(name))
    axes.grid(axis="both", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def study_panel(axes: Axes, arms: Sequence[ArmNumbers], name: str) -> None:
    """Draw one panel, on the scale that all have."""
    first = _findings(arms[0])
    if first.measures:
        _dots(axes, arms, name)
        return
    colours = (f"C{number % 10}" for number in range(len(arms)))
    for arm in arms:
        _line(axes, arm, name, colours)
    axes.set_xlabel(plot_text(first.calls))
    axes.set_ylabel(plot_text(first.value.replace("_", " ")))
    _scales(axes, [point for arm in arms for point in _findings(arm).points], first.ratios)


def _findings(arm: ArmNumbers) -> Findings:
    """What the arm, a study, found."""
    assert arm.findings is not None
    return arm.findings


def panel_names(arms: Sequence[ArmNumbers]) -> list[str]:
    """The panels of a study: its circumstances."""
    points = (point for arm in arms for point in _findings(arm).points)
    return list(dict.fromkeys(point.panel for point in points))


def _line(axes: Axes, arm: ArmNumbers, panel: str, colours: Iterator[str]) -> None:
    """The points of one arm in one panel, in the next colour if there is a line."""
    points = [point for point in _findings(arm).points if point.panel == panel]
    points.sort(key=lambda point: float(point.calls))
    paid = [point for point in points if point.calls > 0]
    for point in points:
        if not point.calls:
            axes.axhline(
                point.value,
                color="0.35",
                linestyle=(0, (4, 3)),
                linewidth=1.1,
                label=f"{plot_text(arm.name)}, no calls",
                zorder=1,
            )
    if paid:
        axes.errorbar(
            [point.calls for point in paid],
            [point.value for point in paid],
            [point.error or 0.0 for point in paid],
            marker="o",
            markersize=5,
            linewidth=1.6,
            color=next(colours),
            label=plot_text(arm.name),
            zorder=2,
        )


def _scales(axes: Axes, points: Sequence[Point], ratios: bool) -> None:
    """Powers of two across; upwards a logarithmic axis for lengths of several sizes."""
    calls = sorted({point.calls for point in points if point.calls > 0})
    if calls:
        axes.set_xscale("log", base=2)
        powers = [2.0**k for k in range(24) if calls[0] <= 2.0**k <= calls[-1]]
        axes.xaxis.set_major_locator(FixedLocator(powers or calls))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(calls[0] / 1.25, calls[-1] * 1.25)
    values = [point.value for point in points]
    if ratios and min(values) > 0 and max(values) > WIDE * min(values):
        axes.set_yscale("log")
        plain_ticks(axes.yaxis)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
