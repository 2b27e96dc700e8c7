"""Curves over the steps of a run, samples that are points, and what a reward was bought with."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from align.core.baseline import BaseRewardStats, Divergence
from align.core.errors import PartError
from align.io.files import replacing
from align.report.letters import plot_text
from align.report.schema import ArmNumbers, BaseNumbers, RunResults, read_metrics

Points: TypeAlias = "list[tuple[int, float]]"

_COLUMNS: Final = 3
_MEANINGS: Final = {
    "reward": "r, which is optimised",
    "candidates": "r of each candidate",
    "value": "value V, estimated",
    "ess": "effective number of draws",
    "draws": "draws at a state",
    "error": "standard error of V",
    "guidance": "length of the guidance",
    "norm": "norm of the gradient",
}
_MANY: Final = 200  # points of a line; a running mean shows more of them better
_FEW: Final = 12  # points of a line that are marked one by one
_PEAK: Final = 8.0  # times what is usual: a larger number makes the axis logarithmic
_RUNAWAY: Final = 100.0  # times the usual size in another arm, with numbers of either sign


def curves(folder: Path) -> None:
    """Write curves.png: r (or the loss) and what goes with it over the steps.

    A panel a number that changes. An arm of a single step is a dashed level beside the others.
    """
    lines = read_metrics(folder)
    series: dict[str, dict[str, Points]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        for name in line.keys() - {"arm", "step", "errors"}:
            series[name][line["arm"]].append((line["step"] + 1, line[name]))
    # The order is that in which numbers are recorded.
    order = dict.fromkeys(name for line in lines for name in line if name in series)
    names = [name for name in order if any(map(_changes, series[name].values()))]
    if not names:
        return
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    arms = list(dict.fromkeys(line["arm"] for line in lines))
    wide = 5.0 * columns + (2.4 if len(arms) > 1 else 0)
    figure = Figure(figsize=(wide, 3.4 * rows), layout="constrained")
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        for number, arm in enumerate(arms):
            _curve(axes, series[name].get(arm, []), plot_text(arm), number)
        _scale(axes, name, [[y for _, y in points] for points in series[name].values()])
        axes.set_xlabel("step, or candidate" if "candidates" in names else "step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(plot_text(_MEANINGS.get(name, name.replace("_", " "))))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.93", linewidth=0.8)
    if len(arms) > 1:
        entries = {
            label: handle
            for axes in figure.axes
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            entries.values(), entries.keys(), loc="outside right upper", frameon=False, fontsize=9
        )
    save_figure(figure, folder / "curves.png")


def _changes(points: Points) -> bool:
    """Whether there is anything to see in a line of these points."""
    return len({y for _, y in points if math.isfinite(y)}) > 1


def _curve(axes: Axes, points: Points, label: str, number: int) -> None:
    """The line of arm `number` in a panel, with a running mean where there are many points."""
    style = _style(number)
    if len(points) == 1:
        axes.axhline(points[0][1], label=label, color=style["color"], linestyle=(0, (4, 3)))
        return
    if not points:
        return
    steps, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    if len(points) > _MANY:
        axes.plot(steps, values, color=style["color"], linewidth=0.6, alpha=0.25)
        width = len(points) // 50
        values = np.convolve(values, np.ones(width) / width, "valid")
        steps = steps[width // 2 :][: len(values)]
    marker = "o" if len(points) <= _FEW else ""
    axes.plot(steps, values, label=label, linewidth=1.4, marker=marker, markersize=3, **style)


def _style(number: int) -> dict[str, Any]:
    """How arm `number` is drawn, unlike any other of the first forty."""
    return {"color": f"C{number % 10}", "linestyle": ("-", "--", ":", "-.")[number // 10 % 4]}


def _scale(axes: Axes, name: str, arms: Sequence[Sequence[float]]) -> None:
    """Make a panel's axis logarithmic where parts of the arms' lines would else hide all others.

    Where numbers are below zero, sizes are logarithmic from the usual one of the quietest arm on.
    """
    values = [y for arm in arms for y in arm]
    if _is_logarithmic(name, values):
        axes.set_yscale("log")
        plain_ticks(axes.yaxis)
        return
    sizes = [float(np.median(np.abs(arm))) for arm in arms if len(arm) > 1]
    usual = min((size for size in sizes if size > 0), default=math.inf)
    if max(map(abs, values)) > _RUNAWAY * usual:
        axes.set_yscale("symlog", linthresh=usual)


def _is_logarithmic(name: str, values: Sequence[float]) -> bool:
    """Whether a panel's axis is logarithmic: where peaks, or a loss's start, hide the rest."""
    if not min(values) > 0:
        return False  # a loss that is a reward may be below zero
    usual = min(values) if name == "loss" else float(np.median(values))
    return max(values) > _PEAK * usual


def _states(path: Path) -> Tensor:
    try:
        return load_file(path)["x1"]
    except (SafetensorError, KeyError, OSError) as error:
        raise PartError(f"'{path}' is damaged: {error}; run the recipe.toml again") from error


def scatter(folder: Path, arms: Sequence[ArmNumbers]) -> None:
    """Write scatter.png, if the samples are points in the plane: a panel an arm.

    All panels show the same square. The few points of an arm that are far from all others are left
    out, and its title says how many.
    """
    states = [_states(folder / arm.folder / "states.safetensors") for arm in arms]
    if any(x1.dim() != 2 or x1.shape[1] != 2 for x1 in states):
        return
    clouds = [x1.double().numpy() for x1 in states]
    kept = [cloud[np.isfinite(cloud).all(1)] for cloud in clouds]
    boxes = [_bounds(cloud) for cloud in kept if len(cloud)]
    bounds = np.stack(boxes or [np.array([[-1.0, -1.0], [1.0, 1.0]])])
    low, high = bounds[:, 0].min(0), bounds[:, 1].max(0)
    middle, half = (low + high) / 2, 0.54 * float((high - low).max()) or 1.0
    columns = min(4, len(arms))
    rows = -(-len(arms) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.6 * rows), layout="constrained")
    first = None
    for place, (arm, cloud) in enumerate(zip(arms, clouds, strict=True)):
        axes = figure.add_subplot(rows, columns, place + 1, sharex=first, sharey=first)
        first = first or axes
        # With few points each is to be seen.
        size = min(20.0, max(3.0, 1000.0 / max(1, len(cloud))))
        axes.scatter(cloud[:, 0], cloud[:, 1], s=size, linewidths=0, alpha=0.6)
        outside = int((~(np.abs(cloud - middle) <= half).all(1)).sum())
        left_out = f" ({outside} outside)" if outside else ""
        axes.set_title(plot_text(arm.name) + left_out, fontsize=9)
        axes.set_aspect("equal")
        axes.set_xlabel("$x_1$")
        axes.set_ylabel("$x_2$")
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    save_figure(figure, folder / "scatter.png")


def _bounds(cloud: np.ndarray) -> np.ndarray:
    """Lowest and highest coordinates (2, 2) of points (n, 2), but for outliers.

    Outliers are at most a hundredth of the points (or one of at least five) without which the
    others take less than a third of the room.
    """
    whole = np.stack((cloud.min(0), cloud.max(0)))
    few = max(1, len(cloud) // 100)
    if len(cloud) < 5:
        return whole
    far = np.abs(cloud - np.median(cloud, 0)).max(1)
    inner = cloud[np.argsort(far)[:-few]]
    bounds = np.stack((inner.min(0), inner.max(0)))
    tight = 3 * (bounds[1] - bounds[0]).max() < (whole[1] - whole[0]).max()
    return bounds if tight else whole


def tradeoff(folder: Path, results: RunResults) -> None:
    """Write tradeoff.png: mean r of each arm against its compute, and against its divergence.

    A filled point stands at the mode's own account of KL(samples | base model), an open one with
    an arrow at the bound from below. The curve is the family p e^{λ r} by unsteered samples: no
    law has a higher mean of r at the same divergence. An arm with samples that left the model has
    no point where it would make all else look alike; the legend then has its mean of r.
    """
    gains = [(arm, arm.divergence) for arm in results.arms if arm.divergence is not None]
    if not gains:
        return
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    spent, distance = figure.subplots(1, 2, sharey=True)
    for base in results.unsteered:
        _family(distance, base)
    costs = [arm.cost.nfe / max(1, arm.samples) for arm, _ in gains]
    low, high = _usual_rewards(results)
    for number, ((arm, gain), cost) in enumerate(zip(gains, costs, strict=True)):
        colour, marker = f"C{number % 10}", "os^D"[number // 10 % 4]
        if _has_left(arm) and not low <= gain.reward <= high:
            label = f"{plot_text(arm.name)} (outside, at {gain.reward:.3g})"
            spent.plot([], [], marker, color=colour, markersize=5, label=label)
            continue
        _point(spent, cost, gain, colour, marker, label=plot_text(arm.name))
        _divergence(distance, gain, colour, marker)
    if min(costs) > 0:
        spent.set_xscale("log")
        plain_ticks(spent.xaxis)
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


def _has_left(arm: ArmNumbers) -> bool:
    """Whether any of an arm's samples has left the model."""
    return arm.departure is not None and arm.departure.left > 0


def _usual_rewards(results: RunResults) -> tuple[float, float]:
    """Lowest and highest mean of r that is shown of an arm with samples that left the model.

    Three times as far from all other arms, and from base samples, as these are apart.
    """
    means = [
        arm.divergence.reward
        for arm in results.arms
        if arm.divergence is not None and not _has_left(arm)
    ]
    for base in results.unsteered:
        means += np.quantile(base.r, (0.1, 1.0)).tolist() if base.r else []
    if not means:
        return -math.inf, math.inf
    room = 3 * (max(means) - min(means)) or math.inf
    return min(means) - room, max(means) + room


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
    marker: str,
    *,
    label: str = "",
    filled: bool = True,
) -> None:
    """Mean r ± its standard error at a place."""
    axes.errorbar(
        place,
        gain.reward,
        yerr=gain.reward_error or 0.0,
        fmt=marker,
        color=colour,
        capsize=2,
        markersize=5,
        markerfacecolor=colour if filled else "white",
        label=label or None,
    )


def _divergence(axes: Axes, gain: Divergence, colour: str, marker: str) -> None:
    """Mean r at the mode's own account of the divergence, or at a bound from below that says some.

    An arm of which neither is known has no point: wherever it stood it might seem better than the
    best possible.
    """
    if gain.at_most is not None:
        _point(axes, gain.at_most, gain, colour, marker)
    elif gain.at_least is not None and not gain.says_nothing:
        axes.annotate(
            "",
            (gain.at_least, gain.reward),
            (22, 0),
            textcoords="offset points",
            arrowprops={"arrowstyle": "<-", "color": colour},
        )
        _point(axes, gain.at_least, gain, colour, marker, filled=False)


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


def plain_ticks(axis: Axis) -> None:
    """Write 0.5, 1, 2, 5, 10 on a logarithmic axis, and no powers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with replacing(path) as file:
        FigureCanvasAgg(figure).print_png(file)
