"""Figures that join several arms or runs, where no picture of a single run shows the claim."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from align.report.plots import plain_ticks, save_figure

if TYPE_CHECKING:
    from benchmarks.paper.evidence import Evidence

DRAWS = (1, 4, 16, 64)


def plane(runs: Evidence, path: Path) -> None:
    """Distance from the tilted law over the number of draws: a panel a dynamics."""
    from benchmarks.paper.rows import Plane

    law, figure = Plane.of(0.2), Figure(figsize=(8.4, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    count = runs.arm("plane", "unsteered").samples
    floor = law.floor(count)
    for axes, dynamics in zip(panels, ("ODE", "SDE"), strict=True):
        for method in ("MFM-G", "MFM-GF"):
            arms = [f"{method}, N = {n}, {dynamics}" for n in DRAWS]
            found = [law.distance(runs.states("plane", arm)).value for arm in arms]
            axes.plot(DRAWS, found, marker="o", label=method)
        others = {"unsteered": "unsteered", "DPS": f"DPS, {dynamics}"}
        others |= {"TDS": "TDS, 16 particles"} if dynamics == "SDE" else {}
        for number, (label, arm) in enumerate(others.items(), 2):
            value = law.distance(runs.states("plane", arm)).value
            axes.axhline(value, color=f"C{number}", linestyle="--", linewidth=1.2, label=label)
        assert floor.error is not None
        axes.axhspan(floor.value - floor.error, floor.value + floor.error, color="0.85")
        axes.set(title=dynamics, xlabel="posterior draws N", xscale="log", yscale="log")
        axes.set_xticks(DRAWS, [str(n) for n in DRAWS])
        axes.minorticks_off()
        plain_ticks(axes.yaxis)
        _plain(axes)
        axes.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("sliced W2 (grey: exact draws)")
    save_figure(figure, path)


def class_shares(runs: Evidence, path: Path) -> None:
    """Shares of classes: a group of bars a class, a bar an arm, a line for the tilted law."""
    from benchmarks.paper.rows import class_shares as shares_of
    from benchmarks.paper.rows import tilted_shares

    figure, wanted = Figure(figsize=(8.4, 3.4), layout="constrained"), tilted_shares(runs)
    axes, arms = figure.subplots(), [arm.name for arm in runs.results("classes").arms]
    width, names = 0.8 / len(arms), list(wanted)
    for number, arm in enumerate(arms):
        shares, _ = shares_of(runs, arm)
        heights = [shares[name] for name in names]
        heights.append(1 - sum(heights))
        places = [place + (number - len(arms) / 2 + 0.5) * width for place in range(len(heights))]
        axes.bar(places, heights, width, label=arm, color=f"C{number}")
    for place, share in enumerate((*wanted.values(), 0.0)):
        axes.hlines(share, place - 0.45, place + 0.45, color="0.15", linewidth=1.5)
    axes.set_xticks(range(len(names) + 1), [*names, "any other"])
    axes.set_ylabel("share (line: tilted law)")
    _plain(axes)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def reward_over_calls(runs: Evidence, path: Path) -> None:
    """Scores over calls: a panel a reward, a line for the best of N, a point for each arm."""
    results = runs.results("steering")
    figure = Figure(figsize=(4.2 * len(results.rewards) + 1.8, 3.8), layout="constrained")
    panels = figure.subplots(1, len(results.rewards), squeeze=False)[0]
    for number, (axes, reward) in enumerate(zip(panels, results.rewards, strict=True)):
        if "best_of_n" in runs.folders:
            (pool,) = runs.results("best_of_n").arms
            panel = reward if number else "r"
            found = {
                calls: n
                for (name, calls), n in runs.points("best_of_n", pool.name).items()
                if name == panel
            }
            values = [one.value for one in found.values()]
            errors = [one.error or 0.0 for one in found.values()]
            axes.errorbar(
                list(found), values, errors, color="0.4", marker=".", label="best of N", zorder=1
            )
        for place, arm in enumerate(results.arms):
            score = runs.mean("steering", arm.name, reward)
            axes.errorbar(
                [runs.nfe("steering", arm.name)],
                [score.value],
                [score.error or 0.0],
                marker="os^Dvp*"[place % 7],
                linestyle="none",
                color=f"C{place % 10}",
                label=arm.name,
            )
        axes.set(xscale="log", xlabel="NFE a sample", title=results.reward_heads()[reward])
        _plain(axes)
    panels[0].set_ylabel("score")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    save_figure(figure, path)


def _plain(axes: Axes) -> None:
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
