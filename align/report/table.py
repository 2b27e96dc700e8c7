"""The table of a run: one row an arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from align.core.baseline import FEW

TOLD: Final = {"reward": "r", "at_least": "KL at least", "at_most": "KL at most"}


def rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: rewards as mean ± standard error, metrics, and cost a sample.

    "calls" are rows through the network, forward and backward, a sample; "reward calls" likewise.
    "r" is what the arms optimise, where more than one reward makes it up; "KL at least" and "KL at
    most" are bounds of KL(samples | base model) in nats.
    """
    rewards, arms = results["rewards"], results["arms"]
    metrics = list(dict.fromkeys(name for arm in arms for name in arm["metrics"]))
    heads = ["arm"]
    heads += [f"{n} (held out)" if said["held_out"] else n for n, said in rewards.items()]
    told = [key for key in TOLD if any(_told(arm, key) for arm in arms)]
    if sum(not said["held_out"] for said in rewards.values()) < 2:
        told = [key for key in told if key != "reward"]
    heads += [*metrics, *(TOLD[key] for key in told)]
    heads += ["network calls", "reward calls", "GFLOP", "seconds"]
    return heads, [_row(arm, list(rewards), metrics, told) for arm in arms]


def markdown(results: Mapping[str, Any]) -> str:
    """The table in Markdown, and what must be said beside it."""
    return marked(*rows(results), noted(results))


def marked(heads: list[str], cells: list[list[str]], notes: Sequence[str]) -> str:
    """Any table in Markdown, with notes."""
    lines = [heads, ["---"] * len(heads), *cells]
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    # Escaped: a note may begin with the asterisk that it explains.
    return table + "".join(f"\n{note.replace('*', chr(92) + '*')}\n" for note in notes)


def noted(results: Mapping[str, Any]) -> list[str]:
    """What must be said beside the table."""
    return list(results.get("notes", ()))


def _row(
    arm: Mapping[str, Any], rewards: list[str], metrics: list[str], told: list[str]
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
    apart = [_told(arm, key) for key in told]
    return [arm["name"], *scores, *found, *apart, *costs, f"{cost['seconds']:.1f}"]


def _told(arm: Mapping[str, Any], key: str) -> str:
    """A number of the divergence ± its standard error; * where unsteered samples are too few."""
    said = arm.get("divergence") or {}
    if said.get(key) is None:
        return ""
    error, few = said.get(f"{key}_error"), key == "at_least" and (said["ess"] or FEW) < FEW
    return f"{said[key]:.3g}" + (f" ± {error:.2g}" if error else "") + " *" * few


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
