"""Curves over the steps of a run, samples that are points, and what a reward was bought with."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, final

import attrs
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
from align.engine.meter import Cost
from align.io.files import replacing
from align.io.numbers import with_error
from align.io.text import number_of
from align.report.letters import plot_text
from align.report.meanings import meaning
from align.report.schema import ArmNumbers, BaseNumbers, RunResults, moments, read_metrics

Points: TypeAlias = "list[tuple[int, float]]"
Price: TypeAlias = Literal["calls", "seconds", "money"]
"""What a sample costs: network calls (NFE), seconds, or what services ask for their scores."""

_COLUMNS: Final = 3
_PRICES: Final[Mapping[Price, str]] = {
    "calls": "NFE (network calls) a sample",
    "seconds": "seconds a sample",
    "money": "price of scores a sample",
}
_MEAN: Final = "mean r"
_LEAST: Final = "KL at least"
_WIDE: Final = 5.0  # times the smallest: numbers that are shown on a logarithmic axis
_MANY: Final = 200  # points of a line; a running mean shows more of them better
_LONG: Final = 500.0  # times the other end: an axis that has no room for 1, 2, 5
_POINTS: Final = 500  # in the plane; more are a picture in a plot that is otherwise drawn
_FEW: Final = 12  # points of a line that are marked one by one
_TICKS: Final = 8  # as many values of a factor as fit beneath an axis
_PEAK: Final = 8.0  # times what is usual: a larger number makes the axis logarithmic
_RUNAWAY: Final = 100.0  # times the usual size in another arm, with numbers of either sign


@final
@attrs.frozen(eq=False)
class Panel:
    """What became of one number over the steps of a run: a line an arm.

    Attributes:
        name: of the number.
        lines: its points, step and value, by the arm's name.
    """

    name: str
    lines: Mapping[str, Points]

    def draw(self, axes: Axes, arms: Sequence[str]) -> None:
        """Draw the lines, each in the style that its arm's place among all arms gives it.

        An arm of a single step is a dashed level beside the others.
        """
        for number, arm in enumerate(arms):
            _curve(axes, self.lines.get(arm, []), plot_text(arm), number)
        _scale(axes, self.name, [[y for _, y in points] for points in self.lines.values()])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(plot_text(meaning(self.name).label))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.93", linewidth=0.8)


def panels(lines: Sequence[Mapping[str, Any]]) -> tuple[Panel, ...]:
    """A panel for each number of the recorded steps that changes, in the order of the record."""
    series: dict[str, dict[str, Points]] = {}
    for line in lines:
        for name in line.keys() - {"arm", "step", "errors"}:
            points = series.setdefault(name, defaultdict(list))
            points[line["arm"]].append((line["step"] + 1, line[name]))
    order = dict.fromkeys(name for line in lines for name in line if name in series)
    return tuple(
        Panel(name, series[name]) for name in order if any(map(_changes, series[name].values()))
    )


def step_label(shown: Sequence[Panel]) -> str:
    """What the axis of the steps is called."""
    candidates = any(panel.name == "candidates" for panel in shown)
    return "step, or candidate" if candidates else "step"


def curves(folder: Path) -> None:
    """Write curves.png: r (or the loss) and what goes with it over the steps."""
    lines = read_metrics(folder)
    shown, arms = panels(lines), list(dict.fromkeys(line["arm"] for line in lines))
    if not shown:
        return
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    wide = 5.0 * columns + (2.4 if len(arms) > 1 else 0)
    figure = Figure(figsize=(wide, 3.4 * rows), layout="constrained")
    for place, panel in enumerate(shown):
        axes = figure.add_subplot(rows, columns, place + 1)
        panel.draw(axes, arms)
        axes.set_xlabel(step_label(shown))
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
    return {"color": _colour(number), "linestyle": ("-", "--", ":", "-.")[number // 10 % 4]}


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
    """Write scatter.png, if the samples are points in the plane: a panel an arm."""
    clouds = Cloud.of([(arm.name, folder / arm.folder) for arm in arms])
    if not clouds:
        return
    columns = min(4, len(clouds))
    rows = -(-len(clouds) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.6 * rows), layout="constrained")
    for place, shown in enumerate(clouds):
        shown.draw(axes := figure.add_subplot(rows, columns, place + 1))
        axes.set_title(plot_text(shown.name) + shown.left_out, fontsize=9)
    save_figure(figure, folder / "scatter.png")


@final
@attrs.frozen(eq=False)
class Cloud:
    """Samples of an arm that are points in the plane, with the square that all arms' share.

    The few points of an arm that are far from all others are outside of it.

    Attributes:
        name: of the arm.
        points: (n, 2).
        middle: of the square, (2,).
        half: half its side.
    """

    name: str
    points: np.ndarray
    middle: np.ndarray
    half: float

    @classmethod
    def of(cls, arms: Sequence[tuple[str, Path]]) -> tuple[Cloud, ...]:
        """Clouds of the arms with these names and folders; none if the samples are no points."""
        states = [_states(folder / "states.safetensors") for _, folder in arms]
        if any(x1.dim() != 2 or x1.shape[1] != 2 for x1 in states):
            return ()
        clouds = [x1.double().numpy() for x1 in states]
        kept = [cloud[np.isfinite(cloud).all(1)] for cloud in clouds]
        boxes = [_bounds(cloud) for cloud in kept if len(cloud)]
        bounds = np.stack(boxes or [np.array([[-1.0, -1.0], [1.0, 1.0]])])
        low, high = bounds[:, 0].min(0), bounds[:, 1].max(0)
        middle, half = (low + high) / 2, 0.54 * float((high - low).max()) or 1.0
        return tuple(
            cls(name, cloud, middle, half) for (name, _), cloud in zip(arms, clouds, strict=True)
        )

    @property
    def left_out(self) -> str:
        """How many points are outside, to stand behind the arm's name."""
        outside = int((~(np.abs(self.points - self.middle) <= self.half).all(1)).sum())
        return f" ({outside} outside)" if outside else ""

    def draw(self, axes: Axes) -> None:
        """Draw the points that are inside."""
        # With few points each is to be seen.
        size = min(20.0, max(3.0, 1000.0 / max(1, len(self.points))))
        many = len(self.points) > _POINTS
        x, y = self.points.T
        axes.scatter(x, y, s=size, linewidths=0, alpha=0.6, rasterized=many)
        axes.set_aspect("equal")
        axes.set_xlabel("$x_1$")
        axes.set_ylabel("$x_2$")
        axes.set_xlim(self.middle[0] - self.half, self.middle[0] + self.half)
        axes.set_ylim(self.middle[1] - self.half, self.middle[1] + self.half)


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
    """Write tradeoff.png: mean r of each arm against its compute, and against its divergence."""
    if not _gains(results):
        return
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    spent, distance = figure.subplots(1, 2, sharey=True)
    reward_over(spent, results, "calls")
    reward_over_divergence(distance, results)
    distance.set_ylabel("")
    for axes in (spent, distance):
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=7, frameon=False)
    save_figure(figure, folder / "tradeoff.png")


def reward_over(axes: Axes, results: RunResults, price: Price) -> None:
    """Mean r of each arm against what a sample costs.

    A band shows what the best of n samples of the base model has at the same price, ± its standard
    error. An arm with samples that left the model has no point where it would make all else look
    alike; the legend then has its mean of r.
    """
    gains = _gains(results)
    low, high = _usual_rewards(results)
    for base in results.unsteered:
        _best_of(axes, base, price, results.prices)
    prices = [_price(arm.cost, arm.samples, price, results.prices) for _, arm, _ in gains]
    for (number, arm, gain), cost in zip(gains, prices, strict=True):
        if _has_left(arm) and not low <= gain.reward <= high:
            _outside(axes, arm, number, with_error(gain.reward, gain.reward_error))
        else:
            _point(axes, cost, gain, number, label=plot_text(arm.name))
    if min(prices) > 0:
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
    axes.set_xlabel(_PRICES[price])
    axes.set_ylabel(_MEAN)
    axes.spines[["top", "right"]].set_visible(False)


def reward_over_divergence(axes: Axes, results: RunResults) -> None:
    """Mean r of each arm against its divergence from the base model.

    A filled point stands at the mode's own account of KL(samples | base model), an open one with
    an arrow at the bound from below. The curve is the family p e^{λ r} by unsteered samples: no
    law has a higher mean of r at the same divergence. A point that is too far to the right stands
    at the edge as an arrowhead, and one that is too high or low in the legend alone.
    """
    gains = _gains(results)
    other = next((gain.base for *_, gain in gains if gain.base), "")
    measured_from = {gain.base or arm.name for _, arm, gain in gains}
    for base in results.unsteered:
        if not other or measured_from & set(base.arms):
            _family(axes, base)
    low, high = _usual_rewards(results)
    for number, arm, gain in gains:
        if not _has_left(arm) or low <= gain.reward <= high:
            _divergence(axes, gain, number)
        else:
            _outside(axes, arm, number, with_error(gain.reward, gain.reward_error))
    model = f"model of '{plot_text(other)}'" if other else "base model"
    axes.set_xlabel(f"KL(samples | {model}), nats")
    axes.set_ylabel(_MEAN)
    # The best possible mean of a normal reward is a straight line on this scale.
    axes.set_xscale("function", functions=(_root, _square))
    far = min(axes.get_xlim()[1], _farthest(results))
    edge = 1.2 * far
    axes.set_xlim(-0.002 * far, edge)
    for number, arm, gain in gains:
        place = _distance(gain)
        if place is not None and place > edge and axes.get_ylim()[0] <= gain.reward:
            _outside(axes, arm, number, f"{place:.3g} nats", (edge, gain.reward))
    axes.spines[["top", "right"]].set_visible(False)


def _farthest(results: RunResults) -> float:
    """Up to where divergences are shown: a bound from above may be useless, and hide all others."""
    known = [gain.at_least for _, _, gain in _gains(results) if gain.at_least]
    for base in results.unsteered:
        laws = BaseRewardStats(torch.tensor(base.r, dtype=torch.float64)).tilted() if base.r else []
        known += [distance for *_, distance in laws[-1:]]
    return 5 * max(known, default=math.inf) or math.inf


def _gains(results: RunResults) -> list[tuple[int, ArmNumbers, Divergence]]:
    """The arms whose r is known, with their places among all."""
    return [
        (number, arm, arm.divergence)
        for number, arm in enumerate(results.arms)
        if arm.divergence is not None
    ]


def _price(cost: Cost, samples: int, price: Price, prices: Mapping[str, float]) -> float:
    """What a sample cost."""
    if price == "money":
        return cost.price(prices) / max(1, samples)
    return (cost.nfe if price == "calls" else cost.steady_seconds) / max(1, samples)


def _best_of(axes: Axes, base: BaseNumbers, price: Price, prices: Mapping[str, float]) -> None:
    """The best of n samples of a base model."""
    if not base.r or len(base.r) < 2:
        return
    r = torch.tensor(base.r, dtype=torch.float64)
    one = _price(base.cost, len(r), price, prices)
    numbers, means, errors = (np.array(c) for c in zip(*BaseRewardStats(r).best_of(), strict=True))
    if one > 0:
        label = f"best of n, by {number_of(len(r), 'unsteered sample')}"
        axes.plot(numbers * one, means, color="0.6", label=label, zorder=0)
        band = (means - errors, means + errors)
        axes.fill_between(numbers * one, *band, color="0.6", alpha=0.25, linewidth=0, zorder=0)


def judged(axes: Axes, results: RunResults, name: str) -> None:
    """Mean score of each arm by a judge that was not optimised, against mean r."""
    for base in results.unsteered:
        if base.r and (scores := base.scores.get(name)):
            label = number_of(len(base.r), "unsteered sample")
            axes.scatter(base.r, scores, s=9, color="0.6", linewidths=0, label=label, zorder=0)
    for number, arm, gain in _gains(results):
        if scores := arm.scores.get(name):
            mean, error = moments(scores)
            axes.errorbar(
                gain.reward,
                mean,
                xerr=gain.reward_error or 0.0,
                yerr=error or 0.0,
                fmt=_marker(number),
                color=_colour(number),
                capsize=2,
                markersize=5,
                label=plot_text(arm.name),
            )
    axes.set_xlabel(_MEAN)
    axes.set_ylabel(plot_text(name))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.93", linewidth=0.8)
    axes.set_axisbelow(True)


@final
@attrs.frozen(eq=False)
class FactorPanel:
    """A number of a sweep's arms over one factor, with a line for each choice of the others.

    Attributes:
        name: of the number.
        factor: on the axis across.
        lines: value and standard error over the factor's values, by the choice of the others.
    """

    name: str
    factor: str
    lines: Mapping[str, Mapping[float | str, tuple[float, float]]]

    @classmethod
    def of(cls, results: RunResults) -> Iterator[FactorPanel]:
        """A panel for each reward, and one for the divergence; none where nothing was swept."""
        arms = [arm for arm in results.arms if arm.factors and arm.scores]
        factor = _across(arms)
        if factor is None:
            return
        for name in (*results.rewards, _LEAST):
            lines: dict[str, dict[float | str, tuple[float, float]]] = {}
            for arm in arms:
                if (number := _factor_number(arm, name)) is not None:
                    others = (f"{k} {v}" for k, v in arm.varied.items() if k != factor)
                    lines.setdefault(", ".join(others), {})[arm.factors[factor]] = number
            if lines:
                yield cls(name, factor, lines)

    def draw(self, axes: Axes) -> None:
        """Draw the lines; words stand at equal distances."""
        places = dict.fromkeys(place for line in self.lines.values() for place in line)
        numbers = [place for place in places if isinstance(place, int | float)]
        spread = len(numbers) == len(places)
        for number, (label, line) in enumerate(self.lines.items()):
            across = list(line) if spread else [list(places).index(place) for place in line]
            values, errors = zip(*line.values(), strict=True)
            style: dict[str, Any] = {"marker": _marker(number), "markersize": 4, "capsize": 2}
            style |= {"color": _colour(number), "label": plot_text(label) or None}
            axes.errorbar(across, values, yerr=errors, **style)
        if not spread:
            axes.set_xticks(range(len(places)), [plot_text(str(place)) for place in places])
        elif min(numbers) > 0 and max(numbers) > _WIDE * min(numbers):
            axes.set_xscale("log")
            plain_ticks(axes.xaxis)
            if len(numbers) <= _TICKS:
                axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
        axes.set_xlabel(plot_text(self.factor))
        axes.set_ylabel(plot_text(self.name))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.93", linewidth=0.8)
        if len(self.lines) > 1:
            axes.legend(fontsize=7, frameon=False)


def _across(arms: Sequence[ArmNumbers]) -> str | None:
    """The factor with most values, numbers before words."""
    values: dict[str, set[Any]] = defaultdict(set)
    for arm in arms:
        for name, value in arm.factors.items():
            values[name].add(value)
    order = {
        name: (all(isinstance(value, int | float) for value in found), len(found))
        for name, found in values.items()
        if len(found) > 1
    }
    return max(order, key=lambda name: order[name], default=None)


def _factor_number(arm: ArmNumbers, name: str) -> tuple[float, float] | None:
    """A reward's mean score, or the divergence, with its standard error."""
    if name == _LEAST:
        gain = arm.divergence
        if gain is None or gain.at_least is None or gain.says_nothing:
            return None
        return gain.at_least, gain.at_least_error or 0.0
    if not (scores := arm.scores.get(name)):
        return None
    mean, error = moments(scores)
    return mean, error or 0.0


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


def _colour(number: int) -> str:
    """Of arm `number`."""
    return f"C{number % 10}"


def _marker(number: int) -> str:
    """Of arm `number`: another after ten arms."""
    return "os^D"[number // 10 % 4]


def _point(
    axes: Axes,
    place: float,
    gain: Divergence,
    number: int,
    *,
    label: str = "",
    filled: bool = True,
) -> None:
    """Mean r of arm `number` ± its standard error at a place."""
    colour = _colour(number)
    axes.errorbar(
        place,
        gain.reward,
        yerr=gain.reward_error or 0.0,
        fmt=_marker(number),
        color=colour,
        capsize=2,
        markersize=5,
        markerfacecolor=colour if filled else "white",
        label=label or None,
    )


def _divergence(axes: Axes, gain: Divergence, number: int) -> None:
    """Mean r at the mode's own account of the divergence, or at a bound from below that says some.

    An arm of which neither is known has no point: wherever it stood it might seem better than the
    best possible.
    """
    place = _distance(gain)
    if gain.at_most is not None:
        _point(axes, gain.at_most, gain, number)
    elif place is not None:
        axes.annotate(
            "",
            (place, gain.reward),
            (22, 0),
            textcoords="offset points",
            arrowprops={"arrowstyle": "<-", "color": _colour(number)},
        )
        _point(axes, place, gain, number, filled=False)


def _distance(gain: Divergence) -> float | None:
    """Where an arm stands on the axis of divergences, if it is known."""
    if gain.at_most is not None:
        return gain.at_most
    return None if gain.says_nothing else gain.at_least


def _outside(
    axes: Axes, arm: ArmNumbers, number: int, where: str, edge: tuple[float, float] | None = None
) -> None:
    """An entry of the legend for an arm that is outside, and an arrowhead at the edge if given."""
    label, marker = f"{plot_text(arm.name)} (outside, at {where})", ">" if edge else _marker(number)
    x, y = ([edge[0]], [edge[1]]) if edge else ([], [])
    axes.plot(x, y, marker, color=_colour(number), markersize=7, clip_on=False, label=label)


def _family(axes: Axes, base: BaseNumbers) -> None:
    """The laws p e^{λ r}, and among them p*, where λ = 1."""
    if not base.r:
        return
    baseline = BaseRewardStats(torch.tensor(base.r, dtype=torch.float64))
    family = baseline.tilted()
    if not family:
        return
    tilts, means, distances = zip(*family, strict=True)
    label = f"best possible, by {number_of(len(base.r), 'unsteered sample')}"
    axes.plot(distances, means, color="0.6", label=label, zorder=0)
    if tilts[-1] >= 1:
        mean, place = baseline.law(1.0)
        axes.plot(place, mean, "*", color="0.4", markersize=9, label="p e^r, likewise", zorder=1)


def plain_ticks(axis: Axis) -> None:
    """Write 0.5, 1, 2, 5, 10 on a logarithmic axis, or 0.1, 1, 10 on a long one, and no powers."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < _LONG * low else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with replacing(path) as file:
        FigureCanvasAgg(figure).print_png(file)
