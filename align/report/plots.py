"""Curves over the steps of a run, samples that are points, and what a reward was bought with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from align.core.baseline import BaseRewardStats, Divergence
from align.core.errors import PartError
from align.io.files import replacing
from align.report.letters import plot_text
from align.report.schema import ArmNumbers, BaseNumbers, RunResults, read_metrics


def curves(folder: Path) -> None:
    """Write curves.png: the reward (or the loss) and what goes with it over the steps."""
    lines = read_metrics(folder)
    series: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        for name in line.keys() - {"arm", "step", "errors"}:
            series[name][line["arm"]].append((line["step"] + 1, line[name]))
    # One point is no curve; the order is that in which numbers are recorded.
    order = dict.fromkeys(name for line in lines for name in line if name in series)
    names = [name for name in order if max(map(len, series[name].values())) > 1]
    if not names:
        return
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    arms = list(dict.fromkeys(line["arm"] for line in lines))
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        for number, arm in enumerate(arms):
            if len(points := series[name].get(arm, [])) > 1:
                colour = f"C{number % 10}"
                axes.plot(
                    *zip(*points, strict=True), label=plot_text(arm), color=colour, linewidth=1.2
                )
        if name == "loss" and all(y > 0 for points in series[name].values() for _, y in points):
            axes.set_yscale("log")  # a loss that is a reward may be below zero
        axes.set_xlabel("step")
        axes.set_title(plot_text(name), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    if len(arms) > 1:
        figure.axes[0].legend(fontsize=7, frameon=False)
    save_figure(figure, folder / "curves.png")


def _states(path: Path) -> Tensor:
    try:
        return load_file(path)["x1"]
    except (SafetensorError, KeyError, OSError) as error:
        raise PartError(f"'{path}' is damaged: {error}; run the recipe.toml again") from error


def scatter(folder: Path, arms: Sequence[ArmNumbers]) -> None:
    """Write scatter.png, if the samples are points in the plane: a panel an arm."""
    states = [_states(folder / arm.folder / "states.safetensors") for arm in arms]
    if any(x1.dim() != 2 or x1.shape[1] != 2 for x1 in states):
        return
    figure = Figure(figsize=(3.2 * len(arms), 3.4), layout="constrained")
    first = None
    for place, (arm, x1) in enumerate(zip(arms, states, strict=True)):
        axes = figure.add_subplot(1, len(arms), place + 1, sharex=first, sharey=first)
        first = first or axes
        axes.scatter(x1[:, 0].tolist(), x1[:, 1].tolist(), s=3, linewidths=0, alpha=0.6)
        axes.set_title(plot_text(arm.name), fontsize=9)
        axes.set_aspect("equal")
    save_figure(figure, folder / "scatter.png")


def tradeoff(folder: Path, results: RunResults) -> None:
    """Write tradeoff.png: mean r of each arm against its compute, and against its divergence.

    A filled point stands at the mode's own account of KL(samples | base model), an open one with
    an arrow at the bound from below. The curve is the family p e^{λ r} by unsteered samples: no
    law has a higher mean of r at the same divergence.
    """
    gains = [(arm, arm.divergence) for arm in results.arms if arm.divergence is not None]
    if not gains:
        return
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    spent, distance = figure.subplots(1, 2, sharey=True)
    for base in results.unsteered:
        _family(distance, base)
    costs = [arm.cost.nfe / max(1, arm.samples) for arm, _ in gains]
    for number, ((arm, gain), cost) in enumerate(zip(gains, costs, strict=True)):
        colour = f"C{number % 10}"
        _point(spent, cost, gain, colour, label=plot_text(arm.name))
        _divergence(distance, gain, colour)
    if min(costs) > 0:
        spent.set_xscale("log")
        spent.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        spent.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        spent.xaxis.set_minor_locator(NullLocator())
    spent.set_xlabel("NFE (network calls) a sample")
    spent.set_ylabel("mean r")
    distance.set_xlabel("KL(samples | base model), nats")
    # The best possible mean of a normal reward is a straight line on this scale.
    distance.set_xscale("function", functions=(_root, _square))
    far = distance.get_xlim()[1]
    distance.set_xlim(-0.002 * far, 1.2 * far)
    for axes in (spent, distance):
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=7, frameon=False)
    save_figure(figure, folder / "tradeoff.png")


def _root(x: np.ndarray) -> np.ndarray:
    """√x, odd, so that a point at 0 has room to its left."""
    return np.asarray(np.sign(x) * np.sqrt(np.abs(x)))


def _square(x: np.ndarray) -> np.ndarray:
    """The inverse of `_root`."""
    return np.asarray(np.sign(x) * np.square(x))


def _point(
    axes: Axes,
    place: float,
    gain: Divergence,
    colour: str,
    *,
    label: str = "",
    filled: bool = True,
) -> None:
    """Mean r ± its standard error at a place."""
    axes.errorbar(
        place,
        gain.reward,
        yerr=gain.reward_error or 0.0,
        fmt="o",
        color=colour,
        capsize=2,
        markersize=5,
        markerfacecolor=colour if filled else "white",
        label=label or None,
    )


def _divergence(axes: Axes, gain: Divergence, colour: str) -> None:
    """Mean r at the mode's own account of the divergence, or at the bound from below."""
    if gain.at_most is not None:
        _point(axes, gain.at_most, gain, colour)
    elif gain.at_least is not None:
        place = max(0.0, gain.at_least)
        axes.annotate(
            "",
            (place, gain.reward),
            (22, 0),
            textcoords="offset points",
            arrowprops={"arrowstyle": "<-", "color": colour},
        )
        _point(axes, place, gain, colour, filled=False)


def _family(axes: Axes, base: BaseNumbers) -> None:
    """The laws p e^{λ r}, and among them p*, where λ = 1."""
    if not base.r:
        return
    baseline = BaseRewardStats(torch.tensor(base.r, dtype=torch.float64))
    family = baseline.tilted()
    if not family:
        return
    tilts, means, distances = zip(*family, strict=True)
    label = f"best possible, by {len(base.r)} unsteered samples"
    axes.plot(distances, means, color="0.6", label=label, zorder=0)
    if tilts[-1] >= 1:
        mean, place = baseline.law(1.0)
        axes.plot(place, mean, "*", color="0.4", markersize=9, label="p e^r, likewise", zorder=1)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with replacing(path) as file:
        FigureCanvasAgg(figure).print_png(file)
