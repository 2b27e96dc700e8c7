"""What results.json holds: the numbers of every arm, written by the record, read by the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, final

import attrs
import cattrs

from align.core.baseline import Divergence
from align.core.errors import PartError
from align.core.study import Findings
from align.engine.meter import Cost
from align.io.files import write

VERSION: Final = 1
"""Of the file's layout; a file of another version is not read."""

NAME: Final = "results.json"


@final
@attrs.frozen(kw_only=True)
class RewardRole:
    """What a reward does in a run: its weight, and whether it is only measured."""

    weight: float
    held_out: bool


@final
@attrs.frozen(kw_only=True)
class ArmNumbers:
    """The numbers of one arm.

    Attributes:
        name: of the arm.
        folder: where its samples are, relative to the run folder.
        samples: how many samples it made; 0 for a mode that makes none.
        scores: every reward's scores by the reward's name, one number a sample.
        metrics: numbers about the whole set of samples.
        cost: of the arm.
        divergence: how far its samples are from the base model's, where that was asked.
        findings: of a study.
        notes: what must be said about this arm.
    """

    name: str
    folder: str
    samples: int
    scores: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    metrics: dict[str, float] = attrs.field(factory=dict)
    cost: Cost = attrs.field(factory=Cost)
    divergence: Divergence | None = None
    findings: Findings | None = None
    notes: tuple[str, ...] = ()


@final
@attrs.frozen(kw_only=True)
class BaseNumbers:
    """What is kept of the samples of one base model.

    Attributes:
        arms: names of the arms that have this model.
        flow_steps: Euler steps from noise to data.
        scores: every reward's scores by the reward's name, one number a sample.
        r: what the arms optimise, one number a sample; None where they optimise nothing.
        cost: of making and scoring the samples; no arm's cost counts it.
    """

    arms: tuple[str, ...]
    flow_steps: int
    scores: dict[str, tuple[float, ...]]
    r: tuple[float, ...] | None
    cost: Cost


@final
@attrs.frozen(kw_only=True)
class RunResults:
    """All numbers of a run.

    Attributes:
        rewards: by name, in the recipe's order.
        arms: in the recipe's order.
        unsteered: samples of the base models.
        notes: what must be said about the run as a whole.
    """

    rewards: dict[str, RewardRole] = attrs.field(factory=dict)
    arms: tuple[ArmNumbers, ...] = ()
    unsteered: tuple[BaseNumbers, ...] = ()
    notes: tuple[str, ...] = ()

    def studies(self) -> tuple[ArmNumbers, ...]:
        """The arms that are studies."""
        return tuple(arm for arm in self.arms if arm.findings is not None)

    def sampled(self) -> tuple[ArmNumbers, ...]:
        """The arms that made samples."""
        return tuple(arm for arm in self.arms if arm.samples)

    def all_notes(self) -> list[str]:
        """Every note with the names of the arms that it is about, then those about the run."""
        arms: dict[str, list[str]] = {}
        for arm in self.arms:
            for note in arm.notes:
                arms.setdefault(note, []).append(arm.name)
        return [f"{', '.join(names)}: {note}" for note, names in arms.items()] + [*self.notes]


def save(folder: Path, results: RunResults) -> None:
    """Write results.json into a run folder."""
    tables = {"version": VERSION, **_CONVERTER.unstructure(results)}
    write(folder / NAME, json.dumps(tables, ensure_ascii=False) + "\n")


def read(folder: Path) -> RunResults:
    """The numbers of a run.

    Raises:
        PartError: the folder holds no finished run, or one that this version cannot read.
    """
    path = folder / NAME
    if not path.is_file():
        raise PartError(f"'{folder}' holds no finished run: it has no {NAME}")
    cure = "run its recipe.toml again"
    try:
        tables: Any = json.loads(path.read_text())
        version = tables.get("version", 0)
    except (ValueError, AttributeError) as error:
        raise PartError(f"{path}: the file is damaged; {cure}") from error
    if version != VERSION:
        text = f"the file has layout {version}, and this align reads layout {VERSION}"
        raise PartError(f"{path}: {text}; {cure}, or use the align that wrote it")
    try:
        return _CONVERTER.structure(tables, RunResults)
    except (cattrs.BaseValidationError, TypeError, ValueError, KeyError) as error:
        raise PartError(f"{path}: the file is damaged; {cure}") from error


_CONVERTER: Final = cattrs.Converter()
