"""Curves over the steps of a run, and samples that are points in the plane."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors.torch import load_file

from align.files import replacing


def curves(folder: Path) -> None:
    """Write curves.png: the reward (or the loss) and what goes with it over the steps."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    names = [n for n in dict.fromkeys(k for v in lines for k in v) if n not in ("arm", "step")]
    if len(lines) < 2 or not names:
        return
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    for place, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), place + 1)
        series: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for line in lines:
            if name in line:
                series[line["arm"]].append((line["step"] + 1, line[name]))
        for arm, points in series.items():
            axes.plot(*zip(*points, strict=True), label=arm, linewidth=1.2)
        if name == "loss":
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    if len({line["arm"] for line in lines}) > 1:
        figure.axes[0].legend(fontsize=7, frameon=False)
    _save(figure, folder / "curves.png")


def scatter(folder: Path, arms: Sequence[Mapping[str, Any]]) -> None:
    """Write scatter.png, if the samples are points in the plane: a panel an arm."""
    states = [load_file(folder / arm["folder"] / "states.safetensors")["x1"] for arm in arms]
    if any(x1.dim() != 2 or x1.shape[1] != 2 for x1 in states):
        return
    figure = Figure(figsize=(3.2 * len(arms), 3.4), layout="constrained")
    first = None
    for place, (arm, x1) in enumerate(zip(arms, states, strict=True)):
        axes = figure.add_subplot(1, len(arms), place + 1, sharex=first, sharey=first)
        first = first or axes
        axes.scatter(x1[:, 0].tolist(), x1[:, 1].tolist(), s=3, linewidths=0, alpha=0.6)
        axes.set_title(arm["name"], fontsize=9)
        axes.set_aspect("equal")
    _save(figure, folder / "scatter.png")


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as file:
        FigureCanvasAgg(figure).print_png(file)
