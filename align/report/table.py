"""The table of a run: one row an arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: rewards as mean ± standard error, metrics, and cost a sample.

    "calls" are rows through the network, forward and backward, a sample; "reward calls" likewise.
    """
    rewards, arms = results["rewards"], results["arms"]
    metrics = list(dict.fromkeys(name for arm in arms for name in arm["metrics"]))
    heads = ["arm"]
    heads += [f"{n} (held out)" if said["held_out"] else n for n, said in rewards.items()]
    heads += [*metrics, "network calls", "reward calls", "GFLOP", "seconds"]
    return heads, [_row(arm, list(rewards), metrics) for arm in arms]


def markdown(results: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    heads, cells = rows(results)
    lines = [heads, ["---"] * len(heads), *cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _row(arm: Mapping[str, Any], rewards: list[str], metrics: list[str]) -> list[str]:
    cost, count = arm["cost"], max(1, arm["samples"])
    scores = [_mean(arm["scores"].get(name, [])) for name in rewards]
    found = [f"{arm['metrics'][n]:.4g}" if n in arm["metrics"] else "" for n in metrics]
    calls = (cost["calls"].get("network", 0) + cost["backward"].get("network", 0)) / count
    judged = sum(
        number
        for kind in ("calls", "backward")
        for name, number in cost[kind].items()
        if name.startswith("reward ")
    )
    costs = [f"{calls:g}", f"{judged / count:g}", f"{cost['flops'] / count / 1e9:.3g}"]
    return [arm["name"], *scores, *found, *costs, f"{cost['seconds']:.1f}"]


def _mean(scores: list[float]) -> str:
    """Mean ± standard error."""
    if not scores:
        return ""
    count = len(scores)
    mean = sum(scores) / count
    if count == 1:
        return f"{mean:.3g}"
    error = math.sqrt(sum((s - mean) ** 2 for s in scores) / (count - 1) / count)
    return f"{mean:.3g} ± {error:.2g}"
