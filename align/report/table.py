"""The table of a run: one row an arm."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal, TypeAlias, get_args

import attrs

from align.core.baseline import FEW, Divergence
from align.io.numbers import rounded, with_error
from align.io.text import markdown as markdown_text
from align.report.schema import ArmNumbers, RunResults, known, moments, read_metrics, shown_name

Column: TypeAlias = Literal[
    "r", "KL at least", "KL at most", "norm / unsteered", "residual / unsteered"
]


def rows(folder: Path, results: RunResults) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: rewards as mean ± standard error, metrics, and cost a sample.

    Of an arm that trains and makes no samples, the numbers of its steps, each a mean over the last
    tenth of those that were recorded, and the whole cost.

    Of rewards that a service computes, "judge calls" a sample, and seconds and price of the arm.
    "NFE" counts rows through the network, forward and backward, a sample; "reward calls" likewise.
    What a sweep varied comes first. "r" is what the arms optimise, in the weights of [[reward]],
    where it is not the score of one reward; "KL at least" and "KL at most" are bounds of
    KL(samples | base model) in nats. "norm" and "residual" are the samples' length and velocity
    residual, in units of those of unsteered samples; see `Departure`.
    """
    arms = [_with_figures(folder, arm) for arm in results.arms]
    metrics = list(dict.fromkeys(name for arm in arms for name in arm.metrics))
    columns = [name for name in get_args(Column) if any(_gain(arm, name) for arm in arms)]
    if _is_a_score(results):
        columns = [name for name in columns if name != "r"]
    factors = _factors(results)
    heads = ["arm", *factors]
    heads += results.reward_heads().values()
    heads += [*metrics, *columns, "NFE (network calls)", "reward calls", "GFLOP", "seconds"]
    judges = {name: role.price for name, role in results.rewards.items() if role.external}
    heads += ["judge calls", "judge seconds"] if judges else []
    heads += ["price"] if any(judges.values()) else []
    names = results.scoring
    varied = ([arm.varied.get(name, "") for name in factors] for arm in arms)
    return heads, [
        [arm.name, *values, *_numbers(arm, names, metrics, columns), *_judged(arm, judges)]
        for arm, values in zip(arms, varied, strict=True)
    ]


def long(folder: Path, results: RunResults) -> list[list[str]]:
    """A row for each number of each arm, below heads: what a sweep varied, the number, its error.

    Scores are means over the samples; costs are those of the whole arm.
    """
    factors = _factors(results)
    lines = [["arm", *factors, "samples", "number", "value", "error"]]
    for arm in results.arms:
        start = [arm.name, *(arm.varied.get(name, "") for name in factors), str(arm.samples)]
        numbers = numbers_of(folder, arm)
        if prices := {n: role.price for n, role in results.rewards.items() if role.price}:
            numbers |= {"price": (arm.cost.price(prices), None)}
        for name, (value, error) in numbers.items():
            lines.append([*start, name, f"{value:.8g}", "" if error is None else f"{error:.4g}"])
    return lines


def numbers_of(folder: Path, arm: ArmNumbers) -> dict[str, tuple[float, float | None]]:
    """Every number of an arm by its name, with its standard error where that is known.

    Scores are means over the samples; costs are those of the whole arm.
    """
    arm = _with_figures(folder, arm)
    numbers = {name: moments(scores) for name, scores in arm.scores.items() if scores}
    numbers |= {name: (value, None) for name, value in arm.metrics.items()}
    if gain := arm.divergence:
        numbers |= {"r": (gain.reward, gain.reward_error)}
        for name, bound, error in (
            ("KL at least", gain.at_least, gain.at_least_error),
            ("KL at most", gain.at_most, None),
        ):
            numbers |= {name: (bound, error)} if bound is not None else {}
    if arm.departure:
        numbers |= {"norm / unsteered": (arm.departure.norm, None)}
        numbers |= {"residual / unsteered": (arm.departure.residual, None)}
    cost = arm.cost
    numbers |= {"network calls": (cost.nfe, None), "reward calls": (cost.rewards, None)}
    return numbers | {"FLOP": (cost.flops, None), "seconds": (cost.steady_seconds, None)}


def _factors(results: RunResults) -> list[str]:
    """What a sweep varied."""
    return list(dict.fromkeys(name for arm in results.arms for name in arm.factors))


def markdown(folder: Path, results: RunResults) -> str:
    """The table in Markdown, and what must be said beside it."""
    return to_markdown(*rows(folder, results), results.all_notes())


def to_markdown(heads: list[str], cells: list[list[str]], notes: Sequence[str]) -> str:
    """Any table in Markdown, with notes."""
    escaped = [[markdown_text(cell) for cell in line] for line in (heads, *cells)]
    lines = [escaped[0], ["---"] * len(heads), *escaped[1:]]
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return table + "".join(f"\n{markdown_text(note)}\n" for note in notes)


def _with_figures(folder: Path, arm: ArmNumbers) -> ArmNumbers:
    """An arm that trained without making samples, with the numbers of its last steps as metrics."""
    if arm.samples or arm.findings is not None:
        return arm
    series = defaultdict[str, list[float]](list)
    for line in read_metrics(folder):
        if line["arm"] == arm.name:
            for name, value in line.items():
                if name not in ("arm", "step", "errors", "learning_rate"):
                    series[name].append(value)
    figures = {
        f"{shown_name(name)} (last tenth)": fmean(values[-max(1, len(values) // 10) :])
        for name, values in series.items()
    }
    return attrs.evolve(arm, metrics=figures | arm.metrics)


def _is_a_score(results: RunResults) -> bool:
    """Whether r is the score of a single reward, of weight 1 and not normalised."""
    optimised = [name for name, role in results.rewards.items() if not role.held_out]
    return len(optimised) < 2 and all(
        math.isclose(arm.divergence.reward, sum(scores) / len(scores), rel_tol=1e-6, abs_tol=1e-9)
        for arm in results.arms
        for name in optimised
        if arm.divergence is not None and (scores := arm.scores.get(name, ()))
    )


def _numbers(
    arm: ArmNumbers, rewards: Sequence[str], metrics: Sequence[str], columns: Sequence[Column]
) -> list[str]:
    cost, count = arm.cost, max(1, arm.samples)
    scores = [_mean(arm.scores.get(name, ())) for name in rewards]
    numbers = [rounded(arm.metrics[name]) if name in arm.metrics else "" for name in metrics]
    gains = [_gain(arm, name) for name in columns]
    costs = [cost.nfe / count, cost.rewards / count, cost.flops / count / 1e9]
    return [*scores, *numbers, *gains, *map(rounded, costs), f"{cost.steady_seconds:.1f}"]


def _judged(arm: ArmNumbers, judges: Mapping[str, float]) -> list[str]:
    """What services cost: calls a sample, seconds of the whole arm and, if they cost any, money."""
    if not judges:
        return []
    calls = sum(arm.cost.reward_calls.get(name, 0) for name in judges)
    seconds = sum(arm.cost.reward_seconds.get(name, 0.0) for name in judges)
    cells = [rounded(calls / max(1, arm.samples)), f"{seconds:.1f}"]
    return [*cells, rounded(arm.cost.price(judges))] if any(judges.values()) else cells


def _gain(arm: ArmNumbers, column: Column) -> str:
    """A number of the divergence ± its standard error; * where unsteered samples are too few.

    Or one of the departure.
    """
    if column in ("norm / unsteered", "residual / unsteered"):
        ratios = arm.departure and (arm.departure.norm, arm.departure.residual)
        return rounded(ratios[column.startswith("residual")]) if ratios else ""
    if arm.divergence is None:
        return ""
    value, error, few = _number(arm.divergence, column)
    if value is None:
        return ""
    return with_error(value, error or None) + " *" * few


def _number(gain: Divergence, column: Column) -> tuple[float | None, float | None, bool]:
    """Value, standard error, and whether it rests on too few unsteered samples."""
    if column == "r":
        return gain.reward, gain.reward_error, False
    if column == "KL at most":
        return gain.at_most, None, False
    if gain.says_nothing:
        return 0.0, None, False
    return gain.at_least, gain.at_least_error, (gain.ess or FEW) < FEW


def _mean(scores: Sequence[float]) -> str:
    """Mean ± standard error, and how many have a score where not all do."""
    if not scores:
        return ""
    text = with_error(*moments(scores))
    if (count := len(known(scores))) == len(scores):
        return text
    return f"{text} ({count} of {len(scores)})" if count else f"none of {len(scores)}"
