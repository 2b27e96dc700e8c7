"""What runs say of a statement: numbers with errors, and whether it holds."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias, final

import attrs
from safetensors.torch import load_file
from torch import Tensor

from align.core.errors import PartError
from align.io.numbers import rounded, with_error
from align.report.compare import Difference
from align.report.schema import ArmNumbers, RunResults, moments, read

Verdict: TypeAlias = Literal["holds", "does not hold", "not decided"]
ERRORS: Final = 2.0
"""Standard errors by which two numbers must differ before one counts as the larger."""


@final
@attrs.frozen
class Number:
    """A measured number and its standard error; None where nobody knows it."""

    value: float
    error: float | None = None

    def __str__(self) -> str:
        """As tables have it."""
        return with_error(self.value, self.error)

    def __sub__(self, other: Number) -> Number:
        """The difference of independent numbers."""
        if self.error is None or other.error is None:
            return Number(self.value - other.value)
        return Number(self.value - other.value, math.hypot(self.error, other.error))


@final
@attrs.frozen
class Check:
    """A statement, what was measured of it, and whether it holds.

    Attributes:
        decides: whether the verdict on the claim hangs on it; else it is told beside.
    """

    statement: str
    measured: str
    verdict: Verdict
    decides: bool = True

    @classmethod
    def greater(cls, statement: str, high: Number, low: Number, *, decides: bool = True) -> Self:
        """That one number is greater than another, by `ERRORS` errors of their difference."""
        gap = high - low
        measured = f"{high} against {low}"
        if gap.error is None:
            return cls(statement, f"{measured}; no error is known", "not decided", decides)
        return cls(statement, measured, sign(gap.value, ERRORS * gap.error), decides)

    @classmethod
    def paired(
        cls, statement: str, high: Sequence[float], low: Sequence[float], *, decides: bool = True
    ) -> Self:
        """That the first of each pair is greater on average, by a t interval of 95 %."""
        one = Difference(reward="", a=tuple(high), b=tuple(low))
        means = f"{rounded(moments(high)[0])} against {rounded(moments(low)[0])}"
        gap = with_error(one.mean, one.half_width)
        measured = f"{means}: {gap} (95 %), more on {one.better} of {len(one.a)}"
        return cls(statement, measured, sign(one.mean, one.half_width), decides)


def sign(gap: float, half_width: float) -> Verdict:
    """Whether a gap is above 0: not decided where its interval holds 0."""
    if not math.isfinite(gap) or abs(gap) <= half_width:
        return "not decided"
    return "holds" if gap > 0 else "does not hold"


def verdict(checks: Sequence[Check]) -> Verdict:
    """On a claim: it fails with the first statement that fails, and holds where all hold."""
    found = {check.verdict for check in checks if check.decides}
    if "does not hold" in found:
        return "does not hold"
    return "holds" if found == {"holds"} else "not decided"


@final
@attrs.frozen(eq=False)
class Evidence:
    """The finished runs of a row.

    Attributes:
        folders: of each recipe, by its name: one folder a seed.
    """

    folders: Mapping[str, Sequence[Path]]

    def results(self, recipe: str, seed: int = 0) -> RunResults:
        """The numbers of a run."""
        return _read(self.folders[recipe][seed])

    def recipe(self, recipe: str) -> dict[str, Any]:
        """The resolved recipe of a run, as a table."""
        return tomllib.loads((self.folders[recipe][0] / "recipe.toml").read_text(encoding="utf-8"))

    def arm(self, recipe: str, name: str, seed: int = 0) -> ArmNumbers:
        """The numbers of an arm; raises PartError for one that the run does not have."""
        arms = {arm.name: arm for arm in self.results(recipe, seed).arms}
        if name not in arms:
            raise PartError(f"'{self.folders[recipe][seed]}' has no arm '{name}'")
        return arms[name]

    def scores(self, recipe: str, arm: str, reward: str) -> tuple[float, ...]:
        """The scores of an arm's samples."""
        return self.arm(recipe, arm).scores[reward]

    def mean(self, recipe: str, arm: str, reward: str) -> Number:
        """Mean score and its error."""
        return Number(*moments(self.scores(recipe, arm, reward)))

    def nfe(self, recipe: str, arm: str) -> float:
        """Network calls of a sample."""
        numbers = self.arm(recipe, arm)
        return numbers.cost.nfe / max(1, numbers.samples)

    def states(self, recipe: str, arm: str) -> Tensor:
        """Clean states (B, *S) of an arm."""
        folder = self.folders[recipe][0] / self.arm(recipe, arm).folder
        return load_file(folder / "states.safetensors")["x1"].double()

    def points(self, recipe: str, arm: str) -> dict[tuple[str, float], Number]:
        """What a study found, by panel and calls.

        Of several seeds it is the mean. Its error is a share of the value, the same for all points
        of all arms: what two seeds differ by, as the root of the mean square of all differences.
        """
        share, points = self.spread(recipe), dict[tuple[str, float], Number]()
        for place, found in self._found(recipe, arm).items():
            mean = sum(one.value for one in found) / len(found)
            shared = None if share is None else share * abs(mean) / math.sqrt(len(found))
            points[place] = Number(mean, found[0].error if shared is None else shared)
        return points

    def spread(self, recipe: str) -> float | None:
        """Standard deviation of one seed's values, as a share of them; None for a single seed."""
        if len(self.folders[recipe]) < 2:
            return None
        squares = []
        for arm in self.results(recipe).arms:
            for found in self._found(recipe, arm.name).values():
                values = [point.value for point in found]
                mean, error = moments(values)
                assert error is not None
                squares.append((error / mean) ** 2 * len(values) if mean else 0.0)
        return math.sqrt(sum(squares) / len(squares))

    def _found(self, recipe: str, arm: str) -> dict[tuple[str, float], list[Number]]:
        found: dict[tuple[str, float], list[Number]] = {}
        for seed in range(len(self.folders[recipe])):
            findings = self.arm(recipe, arm, seed).findings
            assert findings is not None
            for point in findings.points:
                number = Number(point.value, point.error)
                found.setdefault((point.panel, point.calls), []).append(number)
        return found

    def seconds(self) -> float:
        """What all runs took, base samples included."""
        runs = [_read(folder) for folders in self.folders.values() for folder in folders]
        return sum(
            sum(arm.cost.seconds for arm in run.arms)
            + sum(base.cost.seconds for base in run.unsteered)
            for run in runs
        )


@cache
def _read(folder: Path) -> RunResults:
    return read(folder)
