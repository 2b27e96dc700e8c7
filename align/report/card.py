"""The card of a trained model: what it is, how it was made, and how good it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from align.core.errors import PartError
from align.io.files import read_table, read_text, write
from align.io.numbers import with_error
from align.io.text import code, fence, markdown
from align.report.schema import (
    AGAIN,
    ArmNumbers,
    RunResults,
    known,
    moments,
    read_metrics,
    shown_name,
)
from align.training import weights

NAME = "MODEL_CARD.md"

# A path in quotes may have spaces; another begins a word, or a value after "=".
_START: Final = r"(?:~/|/[^/\"\s]+/|[A-Za-z]:[\\/])"
_ABSOLUTE: Final = re.compile(rf'(?<="){_START}[^"\n]*(?=")|(?<![^\s=\'\[(,]){_START}[^\s"\',]*')


def cards(folder: Path, results: RunResults) -> None:
    """Write MODEL_CARD.md beside each model.safetensors of a run, from the run's folder alone."""
    for arm in results.arms:
        alone = folder / "model.safetensors"
        file = alone if alone.exists() else _home(folder, arm) / "model.safetensors"
        if file.exists():
            write(file.with_name(NAME), card(folder, file, arm, results))


def card(folder: Path, file: Path, arm: ArmNumbers, results: RunResults) -> str:
    """The card of the model in `file`, which an arm of the run made."""
    about = read_table(folder / "about.json", AGAIN)
    recipe = _without_folders(read_text(folder / "recipe.toml", AGAIN).strip())
    model, last = weights.about(file), _last(folder, arm.name)
    nets = ", ".join(f"{name} ({net['kind']})" for name, net in model.get("nets", {}).items())
    part = model.get("model")
    if isinstance(part, dict):
        nets = nets or f"that of model '{part.get('kind')}'"
    source = isinstance(part, dict) and (part.get("file") or part.get("module"))
    own = f'\n    code = "{_without_folders(source)}"' if isinstance(source, str) else ""
    libraries = about.get("libraries")
    if not (isinstance(libraries, dict) and isinstance(about.get("time"), str)):
        path = folder / "about.json"
        raise PartError(f"'{path}' is damaged: it lacks 'libraries' or 'time'; {AGAIN}")
    lines = [
        f"# {markdown(arm.name)}",
        "",
        f"Made by {code(_without_folders(str(about.get('command'))))} with align-core"
        f" {libraries.get('align-core')} and torch {libraries.get('torch')}, {about['time'][:10]}.",
        "",
        f"* Networks: {nets or 'autoencoder'}",
        *([f"* A state: {' x '.join(map(str, model['shape']))}"] if "shape" in model else []),
        *([f"* Classes: {markdown(', '.join(model['classes']))}"] if model.get("classes") else []),
        f"* Seconds of training: {arm.cost.steady_seconds:.0f}",
        "",
        f'    [model]\n    kind = "network"\n    weights = "{file.name}"{own}',
        "",
        *_rewards(arm, results),
        *_figures(last),
        *(f"{markdown(note)}\n" for note in arm.notes),
        "## Recipe",
        "",
        f"{fence(recipe)}toml",
        recipe,
        fence(recipe),
    ]
    return "\n".join(lines) + "\n"


def _without_folders(text: str) -> str:
    """A text whose absolute paths are cut to their last names: a card is for other machines."""
    return _ABSOLUTE.sub(lambda found: re.split(r"[\\/]+", found[0].rstrip("\\/"))[-1], text)


def _home(folder: Path, arm: ArmNumbers) -> Path:
    return folder / "weights" / Path(arm.folder).name


def _rewards(arm: ArmNumbers, results: RunResults) -> list[str]:
    """Rewards with their weights, and what the arm's samples have."""
    if not results.rewards:
        return []
    heads = "| reward | weight | held out | samples of the model |"
    lines = ["## Rewards", "", heads, "|---|---|---|---|"]
    for name, role in results.rewards.items():
        scores = arm.scores.get(name, ())
        mean = f"{with_error(*moments(scores))} ({len(known(scores))})" if known(scores) else ""
        held = "yes" if role.held_out else ""
        lines.append(f"| {markdown(name)} | {role.weight:g} | {held} | {mean} |")
    return [*lines, ""]


def _figures(last: Mapping[str, Any]) -> list[str]:
    """The last line of the record that an arm's training left, with standard errors."""
    if not last:
        return []
    errors = last.get("errors", {})
    rows = [
        f"| {markdown(shown_name(name))} | {with_error(value, errors.get(name))} |"
        for name, value in last.items()
        if name not in ("arm", "step", "errors")
    ]
    return ["## Last figures of training", "", "| what | value |", "|---|---|", *rows, ""]


def _last(folder: Path, arm: str) -> Mapping[str, Any]:
    lines = read_metrics(folder)
    return next((line for line in reversed(lines) if line["arm"] == arm), {})
