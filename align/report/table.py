"""The table of a run: one row an arm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from align.core.baseline import FEW

BOUNDS: Final = {"at_least": "KL at least", "at_most": "KL at most"}


def rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: rewards as mean ± standard error, metrics, and cost a sample.

    "calls" are rows through the network, forward and backward, a sample; "reward calls" likewise.
    "KL at least" and "KL at most" are bounds of KL(samples | base model) in nats.
    """
    rewards, arms = results["rewards"], results["arms"]
    metrics = list(dict.fromkeys(name for arm in arms for name in arm["metrics"]))
    heads = ["arm"]
    heads += [f"{n} (held out)" if said["held_out"] else n for n, said in rewards.items()]
    bounds = [b for b in BOUNDS if any(_bound(arm, b) for arm in arms)]
    heads += [
        *metrics,
        *(BOUNDS[bound] for bound in bounds),
        "network calls",
        "reward calls",
        "GFLOP",
        "seconds",
    ]
    return heads, [_row(arm, list(rewards), metrics, bounds) for arm in arms]


def markdown(results: Mapping[str, Any]) -> str:
    """The table in Markdown, and what must be said beside it."""
    heads, cells = rows(results)
    lines = [heads, ["---"] * len(heads), *cells]
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    # Escaped: a note may begin with the asterisk that it explains.
    return table + "".join(f"\n{note.replace('*', chr(92) + '*')}\n" for note in noted(results))


def noted(results: Mapping[str, Any]) -> list[str]:
    """What must be said beside the table."""
    return list(results.get("notes", ()))


def _row(
    arm: Mapping[str, Any], rewards: list[str], metrics: list[str], bounds: list[str]
) -> list[str]:
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
    apart = [_bound(arm, bound) for bound in bounds]
    return [arm["name"], *scores, *found, *apart, *costs, f"{cost['seconds']:.1f}"]


def _bound(arm: Mapping[str, Any], bound: str) -> str:
    """A bound of the divergence ± its standard error; * where the unsteered samples are too few."""
    said = arm.get("divergence") or {}
    if said.get(bound) is None:
        return ""
    error, few = said.get(f"{bound}_error"), bound == "at_least" and (said["ess"] or FEW) < FEW
    shown = f"{said[bound]:.3g}" + (f" ± {error:.2g}" if error else "")
    return shown + " *" * few


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
