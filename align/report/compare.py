"""Two arms beside each other, sample by sample: samples of one number begin from one noise.

Of the differences d_i = A_i − B_i of n pairs the mean is told with its paired t interval, mean ±
t_{n−1} s/√n at 95 %. It is exact where differences are normal, and near to it for any law as n
grows; pairing takes out what both arms owe to the same noise.

Reference: The probable error of a mean, Student, 1908, doi:10.1093/biomet/6.1.1, section 9 (pairs).
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, final

import attrs

from align.catalog.names import did_you_mean
from align.core.errors import PartError
from align.core.term import TERM_OPTIONS
from align.io.files import exists_as_folder
from align.io.numbers import rounded, with_error
from align.io.paths import given
from align.io.text import csv_text
from align.report.schema import (
    ArmNumbers,
    RunResults,
    by_content,
    check_recipe,
    known,
    moments,
    read,
)

LEVEL: Final = 0.95
"""Of the intervals."""

_PROMPTS: Final = ("prompt", "prompts")


@final
@attrs.frozen(eq=False)
class ArmOfRun:
    """An arm with its run, as a command line names it.

    Attributes:
        folder: of the run.
        results: of the run.
        arm: the arm's numbers.
        recipe: of the run, resolved, with digests of files in place of their paths.
    """

    folder: Path
    results: RunResults
    arm: ArmNumbers
    recipe: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.recipe["run"]["seed"])

    @property
    def table(self) -> Mapping[str, Any]:
        """What the recipe says of the arm alone."""
        arms: Sequence[Mapping[str, Any]] = self.recipe.get("compare", ())
        return next((arm for arm in arms if arm["name"] == self.arm.name), self.recipe)

    @property
    def model(self) -> dict[str, Any]:
        """Options of the model, without what its samples are made for."""
        model: Mapping[str, Any] = self.table.get("model", {})
        return {key: value for key, value in model.items() if key not in _PROMPTS}

    @property
    def prompts(self) -> tuple[Any, ...]:
        """What the samples are made for: a text, or the content of a file."""
        model: Mapping[str, Any] = self.table.get("model", {})
        if model.get("prompts"):
            return tuple(sorted(self.arm.inputs.values()))
        return (model.get("prompt"),)

    @property
    def rewards(self) -> dict[str, dict[str, Any]]:
        """Options of each reward by its name, without what the run does with its scores."""
        return {
            table["name"]: {k: v for k, v in table.items() if k not in TERM_OPTIONS}
            for table in self.recipe.get("reward", ())
        }


@final
@attrs.frozen(kw_only=True)
class Difference:
    """A reward's scores of the same samples by two arms.

    Attributes:
        reward: its name.
        a, b: scores, one number a sample.
        held_out: whether both runs only measure it.
        sign: −1 where low scores are wanted, which a negative weight says; else 1.
    """

    reward: str
    a: tuple[float, ...]
    b: tuple[float, ...]
    held_out: bool = False
    sign: int = 1

    @property
    def each(self) -> list[float]:
        """A − B of every sample."""
        return [a - b for a, b in zip(self.a, self.b, strict=True)]

    @property
    def mean(self) -> float:
        """Mean of A − B."""
        return moments(self.each)[0]

    @property
    def half_width(self) -> float:
        """Half of the interval's width; infinite with a single sample."""
        error = moments(self.each)[1]
        return math.inf if error is None else student(LEVEL, len(self.a) - 1) * error

    @property
    def better(self) -> int:
        """In how many samples A is better than B."""
        return sum(self.sign * difference > 0 for difference in self.each)

    @property
    def worse(self) -> int:
        """In how many samples B is better than A."""
        return sum(self.sign * difference < 0 for difference in self.each)

    @property
    def winner(self) -> int:
        """1 where A is better, −1 where B is; 0 where the interval holds 0, so that nothing is."""
        if abs(self.mean) <= self.half_width:
            return 0
        return self.sign if self.mean > 0 else -self.sign

    @property
    def mostly(self) -> int:
        """1 where A is better on more than half of the samples, −1 where B is; 0 where chance may.

        By the sign test, two-sided at 5 %; samples that are equal count for nobody.
        """
        count, most = self.better + self.worse, max(self.better, self.worse)
        if 2 * _tail(most, count) > 1 - LEVEL:
            return 0
        return 1 if self.better == most else -1


@final
@attrs.frozen(kw_only=True)
class Comparison:
    """Two arms beside each other.

    Attributes:
        names: of A and B, told apart.
        arm: name of A's arm.
        differences: of every reward that both have, those that were steered by first.
        calls: NFE a sample, of A and B.
        notes: what must be said beside the numbers.
    """

    names: tuple[str, str]
    arm: str
    differences: tuple[Difference, ...]
    calls: tuple[float, float]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, first: ArmOfRun, second: ArmOfRun) -> Self:
        """Compare the samples that both have.

        Raises:
            PartError: they are no pairs; one line for each reason.
        """
        names = _names(first, second)
        if reasons := [*_mismatches(names, first, second)]:
            head = f"{names[0]} and {names[1]} cannot be compared sample by sample:"
            raise PartError("\n".join([head, *reasons]))
        count = min(first.arm.samples, second.arm.samples)
        differences, notes = list[Difference](), list[str]()
        if first.arm.samples != second.arm.samples:
            both = f"{names[0]} has {first.arm.samples} and {names[1]} {second.arm.samples}"
            notes.append(f"Of samples {both}: the first {count} of both are compared.")
        if first.model != second.model:
            notes.append(
                f"Their models differ in {_differing(first.model, second.model)}: pairs share noise"
                " and prompt, and no more."
            )
        for name in first.results.scoring:
            role = first.results.rewards[name]
            if name not in second.results.rewards:
                notes.append(f"{name}: {names[1]} has no scores of it.")
                continue
            if first.rewards[name] != second.rewards[name]:
                keys = _differing(first.rewards[name], second.rewards[name])
                notes.append(f"{name}: not the same reward in both, as it differs in {keys}.")
                continue
            scores = first.arm.scores[name][:count], second.arm.scores[name][:count]
            if missing := count - min(len(known(some)) for some in scores):
                notes.append(
                    f"{name}: {missing} of its scores are missing, so that it is left out."
                )
                continue
            other = second.results.rewards[name]
            differences.append(
                Difference(
                    reward=name,
                    a=scores[0],
                    b=scores[1],
                    held_out=role.held_out and other.held_out,
                    sign=-1 if role.weight < 0 else 1,
                )
            )
        notes += [
            f"{name}: {names[0]} has no scores of it."
            for name in second.results.rewards
            if name not in first.results.rewards
        ]
        if not differences:
            raise PartError("\n".join(["no reward was scored in both", *notes]))
        return cls(
            names=names,
            arm=first.arm.name,
            differences=tuple(sorted(differences, key=lambda one: one.held_out)),
            calls=(
                first.arm.cost.nfe / first.arm.samples,
                second.arm.cost.nfe / second.arm.samples,
            ),
            notes=tuple(notes),
        )

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Heads and cells: means of both arms, their difference and in how many samples A wins."""
        heads = ["reward", *self.names, "difference ± 95 %", "better on"]
        cells = [
            [
                one.reward + " (held out)" * one.held_out,
                rounded(moments(one.a)[0]),
                rounded(moments(one.b)[0]),
                with_error(one.mean, one.half_width),
                f"{one.better} of {len(one.a)}",
            ]
            for one in self.differences
        ]
        return heads, cells

    def verdict(self) -> list[str]:
        """What the numbers say, in plain words."""
        sentences = [_sentence(self.names, one) for one in self.differences]
        won = {one.winner for one in self.differences if not one.held_out and one.winner}
        lost = {one.winner for one in self.differences if one.held_out and one.winner}
        if len(won) == 1 and {-each for each in won} & lost:
            name = self.names[won == {-1}]
            sentences.append(
                f"{name} is better by what was optimised and worse by what was held out, as where a"
                " reward is hacked."
            )
        a, b = (f"{calls:g}" for calls in self.calls)
        cost = f"NFE a sample: {self.names[0]} {a}, {self.names[1]} {b}."
        return [*sentences, cost, *self.notes]


def compare(first: str, second: str) -> list[Comparison]:
    """Compare two arms, each named by its run's folder and, after a colon, its name.

    A run of one arm needs no name. Of two runs whose arms are not named, those of equal names are
    compared.

    Raises:
        PartError: a run or an arm is not there, or the arms are no pairs.
    """
    ones, others = _arms(first), _arms(second)
    if len(ones) == len(others) == 1:
        return [Comparison.of(ones[0], others[0])]
    names = [one.arm.name for one in ones], [other.arm.name for other in others]
    if not (shared := [name for name in names[0] if name in names[1]]):
        text = f"'{first}' has {_listed(names[0])}, and '{second}' {_listed(names[1])}"
        example = f"{first if len(ones) > 1 else second}:{names[len(ones) == 1][0]}"
        raise PartError(f"{text}; name the arms, as in '{example}'")
    by_name = {other.arm.name: other for other in others}
    return [Comparison.of(one, by_name[one.arm.name]) for one in ones if one.arm.name in shared]


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """A row for each reward's scores of each pair of samples."""
    rows: list[Sequence[object]] = [
        ("A", "B", "sample", "reward", "score of A", "score of B", "A - B")
    ]
    rows += [
        (*comparison.names, number, one.reward, *map(repr, scores))
        for comparison in comparisons
        for one in comparison.differences
        for number, scores in enumerate(zip(one.a, one.b, one.each, strict=True))
    ]
    return csv_text(rows)


def student(level: float, freedom: int) -> float:
    """The t with P(|T| < t) = `level`, of Student's T with `freedom` degrees of freedom.

    Reference: Handbook of Mathematical Functions, Abramowitz, Stegun, 1964, Eq. 26.7.3 and 26.7.4.
    """
    low, high = 0.0, 1.0
    while _within(high, freedom) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| < t)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for power in range(1 + odd, freedom, 2):
        total += term
        term *= square * power / (power + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _tail(wins: int, count: int) -> float:
    """The chance of so many heads or more when a coin is thrown `count` times."""
    ways = math.lgamma(count + 1) - count * math.log(2)
    return math.fsum(
        math.exp(ways - math.lgamma(heads + 1) - math.lgamma(count - heads + 1))
        for heads in range(wins, count + 1)
    )


def _arms(text: str) -> list[ArmOfRun]:
    """The arms that a text names: one, or all of a run that made samples."""
    folder, name = _split(text)
    results = read(folder)
    check_recipe(folder, results)
    recipe = by_content(tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8")))
    sampled = results.sampled()
    if not sampled:
        raise PartError(f"'{folder}' made no samples that could be compared")
    if name is not None:
        known = [arm.name for arm in sampled]
        if name not in known:
            raise PartError(f"'{folder}' has no arm '{name}'; {did_you_mean(name, known)}")
        sampled = tuple(arm for arm in sampled if arm.name == name)
    return [ArmOfRun(folder, results, arm, recipe) for arm in sampled]


def _split(text: str) -> tuple[Path, str | None]:
    """The folder of a run, and the arm after a colon; either may have colons in its name."""
    pieces = text.split(":")
    for count in range(len(pieces), 0, -1):
        folder = given(":".join(pieces[:count]))
        if exists_as_folder(folder):
            return folder, ":".join(pieces[count:]) if count < len(pieces) else None
    return given(text), None


def _names(first: ArmOfRun, second: ArmOfRun) -> tuple[str, str]:
    """What the arms are called: by their names, or by their runs where these are alike."""
    if first.arm.name != second.arm.name:
        return first.arm.name, second.arm.name
    if first.folder.name != second.folder.name:
        return first.folder.name, second.folder.name
    return str(first.folder), str(second.folder)


def _mismatches(names: tuple[str, str], first: ArmOfRun, second: ArmOfRun) -> Iterator[str]:
    """Why samples of one number are no pairs."""
    if first.seed != second.seed:
        yield (
            f"their seeds differ ({first.seed} and {second.seed}), so that samples begin from other"
            f" noise; run one again with --set run.seed={first.seed}"
        )
    if first.prompts != second.prompts:
        yield "their prompts differ; run one again with the prompts of the other"
    # What one recipe puts side by side is meant to be compared, as a model and its fine-tuned copy.
    same = first.results.recipe and first.results.recipe == second.results.recipe
    if first.model != second.model and not same:
        keys = _differing(first.model, second.model)
        yield (
            f"their models differ in {keys}; run both as arms of one recipe, whose pairs share"
            " noise and prompt"
        )
    for name, arm in zip(names, (first.arm, second.arm), strict=True):
        if not arm.independent:
            yield f"samples of {name} depend on each other, so that none has a noise of its own"


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Names of the options in which two tables differ."""
    names = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return ", ".join(f"'{name}'" for name in names)


def _listed(names: Sequence[str]) -> str:
    return f"the arm{'s' * (len(names) > 1)} " + ", ".join(f"'{name}'" for name in names)


def _sentence(names: tuple[str, str], one: Difference) -> str:
    """What one reward says of two arms."""
    count, who = len(one.a), one.reward + " (held out)" * one.held_out
    equal = count - one.better - one.worse
    if count == 1:
        return f"{who}: one sample says nothing of a difference; make more."
    ties = f" and equal on {equal}" if equal else ""
    if equal == count:
        return f"{who}: no difference at all, on {count} samples."
    if one.winner == 0 and one.mostly:
        wins, gain = max(one.better, one.worse), one.sign * one.mostly * one.mean
        size = with_error(gain, one.half_width)
        winner = f"{names[one.mostly < 0]} is better on {wins} of {count} samples{ties}"
        return f"{who}: {winner}; by how much is not clear, {size} (95 %)."
    if one.winner == 0:
        size = f"{with_error(one.mean, one.half_width)} (95 %)"
        where = f"{names[0]} is better on {one.better} of {count} samples{ties}"
        return f"{who}: no difference seen, {size}; {where}."
    wins = one.better if one.winner > 0 else one.worse
    size = f"{with_error(abs(one.mean), one.half_width)} (95 %)"
    winner = names[one.winner < 0]
    return f"{who}: {winner} is better by {size}, on {wins} of {count} samples{ties}."
