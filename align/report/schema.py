"""What results.json holds: the numbers of every arm, written by the record, read by the report."""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

import attrs
import cattrs

from align.core.baseline import Divergence
from align.core.departure import Departure
from align.core.errors import PartError
from align.core.study import Findings
from align.engine.meter import Cost
from align.io.files import digest, read_table, read_tables, read_text, write
from align.io.lock import owner_of
from align.io.numbers import beside
from align.io.text import listed

VERSION: Final = 1
"""Of the file's layout; a file of another version is not read."""

NAME: Final = "results.json"
METRICS: Final = "metrics.jsonl"
NOT_OF_THE_RUN: Final = frozenset({"out", "checkpoint_every", "cache", "trackers", "on", "npz"})
"""Options of [run] in which runs of one recipe may differ, as they change none of its numbers."""

AGAIN: Final = "run the recipe.toml again"

_STATES: Final = "states.safetensors"
_FOLDER: Final = re.compile(r"samples/[a-z0-9._]+")
_DIGITS: Final = 32  # of a file's digest


@final
@attrs.frozen(kw_only=True)
class RewardRole:
    """What a reward does in a run.

    Attributes:
        weight: λ.
        held_out: whether it is only measured.
        external: whether a service computes it.
        price: money that a score costs.
        compares: whether it compares samples, and scores none alone.
    """

    weight: float
    held_out: bool
    external: bool = False
    price: float = 0.0
    compares: bool = False


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
        plan: what it was said to cost before it began; None where it was not planned.
        divergence: how far its samples are from the base model's, where that was asked.
        departure: their length and velocity residual beside those of base samples.
        findings: of a study.
        notes: what must be said about this arm.
        inputs: digests of the files that its prompts are from, by their paths.
        licence: of the model's weights, as their card states it; "" where it states none.
        files: of its samples, by name: the first digits of their SHA-256.
        factors: what a sweep varied, with the values that this arm has.
        independent: whether a sample depends on no other.
    """

    name: str
    folder: str = attrs.field(validator=attrs.validators.matches_re(_FOLDER))
    samples: int
    scores: dict[str, tuple[float, ...]] = attrs.field(factory=dict)
    metrics: dict[str, float] = attrs.field(factory=dict)
    cost: Cost = attrs.field(factory=Cost)
    plan: Cost | None = None
    divergence: Divergence | None = None
    departure: Departure | None = None
    findings: Findings | None = None
    notes: tuple[str, ...] = ()
    inputs: dict[str, str] = attrs.field(factory=dict)
    licence: str = ""
    files: dict[str, str] = attrs.field(factory=dict)
    factors: dict[str, Any] = attrs.field(factory=dict)
    independent: bool = True

    @property
    def varied(self) -> dict[str, str]:
        """The factors as words."""
        return {name: f"{v:g}" if _is_number(v) else str(v) for name, v in self.factors.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
        recipe: digest of the recipe, as `recipe_digest` gives it.
        metrics: digest of metrics.jsonl.
    """

    rewards: dict[str, RewardRole] = attrs.field(factory=dict)
    arms: tuple[ArmNumbers, ...] = ()
    unsteered: tuple[BaseNumbers, ...] = ()
    notes: tuple[str, ...] = ()
    recipe: str = ""
    metrics: str = ""

    def studies(self) -> tuple[ArmNumbers, ...]:
        """The arms that are studies."""
        return tuple(arm for arm in self.arms if arm.findings is not None)

    @property
    def prices(self) -> dict[str, float]:
        """Money that a score costs, of the optimised rewards that cost any."""
        return {
            n: role.price for n, role in self.rewards.items() if role.price and not role.held_out
        }

    def sampled(self) -> tuple[ArmNumbers, ...]:
        """The arms that made samples."""
        return tuple(arm for arm in self.arms if arm.samples)

    @property
    def scoring(self) -> list[str]:
        """Names of the rewards that score samples; a judge that compares them has no scores."""
        return [name for name, role in self.rewards.items() if not role.compares]

    def reward_heads(self) -> dict[str, str]:
        """What stands above the scores of each reward, by its name."""
        return {
            name: f"{name} (held out)" if self.rewards[name].held_out else name
            for name in self.scoring
        }

    @cached_property
    def score_errors(self) -> dict[str, float | None]:
        """The standard error of the mean of each reward's scores, those of all arms together."""
        return {
            name: moments([score for arm in self.arms for score in arm.scores.get(name, ())])[1]
            for name in self.rewards
        }

    def scores_of(self, arm: ArmNumbers, number: int) -> dict[str, str]:
        """The scores of one sample by each reward, by what stands above them.

        They have as many decimals as their means in a table of all samples would have.
        """
        return {
            shown: beside(score, self.score_errors[name]) if not math.isnan(score) else "missing"
            for name, shown in self.reward_heads().items()
            for score in arm.scores.get(name, ())[number : number + 1]
        }

    def all_notes(self) -> list[str]:
        """Every note with the names of the arms that it is about, then those about the run."""
        arms: dict[str, list[str]] = {}
        for arm in self.arms:
            for note in arm.notes:
                arms.setdefault(note, []).append(arm.name)
        return [f"{listed(names)}: {note}" for note, names in arms.items()] + [*self.notes]


def save(folder: Path, results: RunResults) -> None:
    """Write results.json into a run folder."""
    tables = {"version": VERSION, **_CONVERTER.unstructure(results)}
    tables["digest"] = _digest(tables)
    write(folder / NAME, json.dumps(tables, ensure_ascii=False) + "\n")


def _digest(tables: dict[str, Any]) -> str:
    return digest(json.dumps(tables, sort_keys=True).encode())


def read(folder: Path) -> RunResults:
    """The numbers of a run.

    Raises:
        PartError: the folder holds no finished run, or one that this version cannot read.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        raise PartError(f"'{folder}' holds no finished run: {_unfinished(folder)}")
    tables = read_table(path, AGAIN)
    version = tables.get("version", 0)
    if version != VERSION:
        text = f"the file has layout {version}, and this align reads layout {VERSION}"
        raise PartError(f"{path}: {text}; {AGAIN}, or use the align that wrote it")
    if tables.pop("digest", None) != _digest(tables):
        raise PartError(f"{path}: the file is damaged: it was changed; {AGAIN}")
    try:
        return _CONVERTER.structure(tables, RunResults)
    except (cattrs.BaseValidationError, TypeError, ValueError, KeyError) as error:
        raise PartError(f"{path}: the file is damaged; {AGAIN}") from error


def check_recipe(folder: Path, results: RunResults) -> None:
    """Look whether recipe.toml is that of the results, if they say so.

    Raises:
        PartError: it is not.
    """
    path, cure = folder / "recipe.toml", "put back the one that the run wrote, or run it again"
    if not results.recipe:
        return
    try:
        same = recipe_digest(read_text(path, cure)) == results.recipe
    except tomllib.TOMLDecodeError as error:
        raise PartError(f"'{path}' is damaged: {error}; {cure}") from error
    if not same:
        raise PartError(f"'{path}' is not the recipe of {NAME} beside it; {cure}")


def check_metrics(folder: Path, results: RunResults) -> None:
    """Look whether metrics.jsonl is that of the results, if they say so.

    Raises:
        PartError: it is not.
    """
    if results.metrics and metrics_digest(folder) != results.metrics:
        path = folder / METRICS
        what = "is not that of the results" if path.is_file() else "is missing"
        raise PartError(f"'{path}' {what}; put it back, or {AGAIN}")


def metrics_digest(folder: Path) -> str:
    """Of metrics.jsonl; empty if there is none."""
    path = folder / METRICS
    return digest(path) if path.is_file() else ""


def _unfinished(folder: Path) -> str:
    """Why a folder has no results, and what to do."""
    try:
        folder.stat()
    except OSError as error:
        return f"{error.strerror}; name the folder of a run"
    if not folder.is_dir():
        return "it is no folder; name the folder of a run"
    if owner := owner_of(folder):
        return f"it is still going on ({owner}); wait for it"
    about = folder / "about.json"
    if not os.path.lexists(about):
        return f"it has no {NAME} and no about.json; name the folder of a run"
    facts = read_table(about, AGAIN)
    status, heartbeat = facts.get("status"), facts.get("heartbeat", facts.get("time"))
    ended = {
        "running": f"it was killed after {heartbeat}",
        "done": f"{NAME} is missing",
    }.get(str(status), f"it ended as '{status}'")
    return f"{ended}; run '{folder / 'recipe.toml'}' again"


def recipe_digest(recipe: str) -> str:
    """Of a resolved recipe: the same for runs that differ in who makes and keeps their samples.

    A file that a recipe reads counts by its content, wherever it lies.

    Raises:
        TOMLDecodeError: it is no TOML.
    """
    table = by_content(tomllib.loads(recipe))
    run = table.get("run")
    if isinstance(run, dict):
        options = {name: value for name, value in run.items() if name not in NOT_OF_THE_RUN}
        table = table | {"run": options}
    return digest(json.dumps(table, sort_keys=True, default=str).encode())


def by_content(table: dict[str, Any]) -> dict[str, Any]:
    """The tables of a resolved recipe, with digests of files in place of their paths."""
    files = table.get("files")
    if not isinstance(files, dict):
        return table

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items()}
        if isinstance(value, list):
            return list(map(replaced, value))
        return f"sha256 {files[value]}" if isinstance(value, str) and value in files else value

    rest = {key: replaced(item) for key, item in table.items() if key != "files"}
    return {**rest, "files": sorted(set(map(str, files.values())))}


def known(scores: Sequence[float]) -> list[float]:
    """The scores that are not missing, which NaN says."""
    return [score for score in scores if not math.isnan(score)]


def moments(scores: Sequence[float]) -> tuple[float, float | None]:
    """Mean of the scores that are not missing, and its standard error if there are several.

    The mean is NaN where all are missing.
    """
    scores = known(scores)
    count = len(scores)
    if not count:
        return math.nan, None
    mean = sum(scores) / count
    if count == 1:
        return mean, None
    # `hypot` also where no float holds the squares.
    return mean, math.hypot(*(s - mean for s in scores)) / math.sqrt((count - 1) * count)


def shown_name(number: str) -> str:
    """What a step's number is called where it is shown: the table calls the mean reward r."""
    return "r" if number == "reward" else number


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl: "arm", "step", and numbers by name.

    Raises:
        PartError: the file is damaged.
    """
    path, cure = folder / METRICS, "remove it; only the curves are lost"
    lines = read_tables(path, cure)
    for number, line in enumerate(lines, 1):
        if not _is_step(line):
            text = f"'{path}:{number}' is damaged: expected 'arm', 'step' and numbers"
            raise PartError(f"{text}; {cure}")
    return lines


def _is_step(line: dict[str, Any]) -> bool:
    """Whether a line says an arm, a step, and otherwise numbers, alone or by name."""
    step, others = line.get("step"), (v for k, v in line.items() if k not in ("arm", "step"))
    inner = (list(v.values()) if isinstance(v, dict) else [v] for v in others)
    numbers = all(type(v) in (int, float) for values in inner for v in values)
    return isinstance(line.get("arm"), str) and type(step) is int and step >= 0 and numbers


def sample_files(folder: Path) -> dict[str, str]:
    """Names and digests of an arm's samples, as results.json keeps them."""
    paths = sorted(path for path in folder.glob("*") if path.suffix == ".png")
    if (folder / _STATES).is_file():
        paths.insert(0, folder / _STATES)
    return {path.name: digest(path)[:_DIGITS] for path in paths}


def check_samples(folder: Path, arm: ArmNumbers) -> None:
    """Look whether an arm's samples are those that the run wrote.

    Raises:
        PartError: a file is missing or changed.
    """
    there = sample_files(folder / arm.folder)
    for name in sorted(arm.files.keys() | (there.keys() if arm.files else ())):
        if arm.files.get(name) != there.get(name):
            why = {name in there: "is damaged", name not in arm.files: "is not of this run"}
            what = why.get(True, "is missing")
            text = f"'{folder / arm.folder / name}' {what}"
            cure = "remove it" if name not in arm.files else AGAIN
            raise PartError(f"{text}; {cure}")


_CONVERTER: Final = cattrs.Converter()
