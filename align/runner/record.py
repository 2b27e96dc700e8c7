"""The run folder: everything needed to look at a run, trust it, and run it again.

recipe.toml      every value resolved; `align run RUN/recipe.toml` repeats the run
about.json       origin and version of every part, libraries, machine, how the run ended
metrics.jsonl    one line a step
log.txt          what happened, with times
samples/<arm>/   pictures (PNG) and clean states (states.safetensors)
given/           pictures that samples are to be seen beside
results.json, table.md, grid.png, curves.png, tradeoff.png; study.md, study.png
checkpoint-<steps>/, model.safetensors, model_<decay>.safetensors, model/ of a training run
"""

from __future__ import annotations

import functools
import itertools
import json
import platform
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast, final

import attrs
import torch
from loguru import logger
from safetensors.torch import save as to_safetensors
from torch import Tensor

from align.catalog.registry import Catalog
from align.core.errors import PartError
from align.core.mode import Export, Info
from align.core.reward import HasOrigins
from align.io.files import read_table, read_text, write
from align.io.images import mosaic, save_picture, to_bytes
from align.recipe import Recipe
from align.report.schema import RunResults
from align.report.schema import save as save_results
from align.training import checkpoint, parallel, weights

Writes = TypeVar("Writes", bound=Callable[..., None])


LIBRARIES = ("align-core", "torch", "numpy", "attrs", "cattrs", "safetensors", "pillow")


def folder_for(out: Path, recipe: str) -> Path:
    """Where a run may write: `out`, or beside it when `out` holds a run of another recipe."""
    for number in range(1, 1000):
        folder = out if number == 1 else out.with_name(f"{out.name}-{number}")
        earlier = folder / "recipe.toml"
        if not earlier.exists() or _same(read_text(earlier), recipe):
            return folder
    raise PartError(f"run.out: '{out}' and 999 folders beside it are taken; choose another")


def _same(first: str, second: str) -> bool:
    """Whether two resolved recipes make the same run, wherever and however often it is kept."""
    try:
        tables = [tomllib.loads(text) for text in (first, second)]
    except tomllib.TOMLDecodeError:
        return False
    for table in tables:
        for key in ("out", "checkpoint_every"):
            table.get("run", {}).pop(key, None)
    return tables[0] == tables[1]


def origins_of(recipe: Recipe, catalog: Catalog) -> dict[str, str]:
    """Where every part of a recipe comes from, by its class."""
    parts: list[Any] = [*(term.part for term in recipe.reward), *recipe.metric]
    for arm in recipe.arms():
        inner = attrs.asdict(arm.mode, recurse=False).values()
        parts += [p for p in (arm.model, arm.sampler, arm.estimator, arm.mode, *inner) if p]
    known = {
        f"{entry.cls.__module__}.{entry.cls.__name__}": str(entry.origin)
        for entry in map(catalog.entry_of, parts)
        if entry is not None
    }
    for part in parts:
        if isinstance(part, HasOrigins):
            known |= part.origins()
    return known


def slug(name: str) -> str:
    """A name as a folder's name."""
    return re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_.") or "arm"


def _slugs(arms: Sequence[str]) -> dict[str, str]:
    """A folder's name for each arm, no two alike."""
    slugs: dict[str, str] = {}
    for arm in arms:
        tried = (slug(arm) + (f"_{count}" if count > 1 else "") for count in itertools.count(1))
        slugs[arm] = next(name for name in tried if name not in slugs.values())
    return slugs


def _once(write: Writes) -> Writes:
    """Of several processes the first one alone writes."""

    @functools.wraps(write)
    def written(*args: Any, **kwargs: Any) -> None:
        if parallel.first():
            write(*args, **kwargs)

    return cast(Writes, written)


@final
@attrs.frozen(eq=False)
class Record:
    """Writes one run folder; where several processes train, each has a record, the first's writes.

    Args:
        folder: the run folder.
        arms: each arm's name as a folder's name.
    """

    folder: Path
    arms: Mapping[str, str]
    _sink: int

    @classmethod
    def open(
        cls, folder: Path, recipe: str, origins: Mapping[str, str], arms: Sequence[str]
    ) -> Record:
        """Begin a run folder, or go on with one."""
        if not parallel.first():
            return cls(folder, _slugs(arms), -1)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "recipe.toml", recipe)
        logger.enable("align")
        sink = logger.add(folder / "log.txt", format="{time} {level} {message}", level="DEBUG")
        record = cls(folder, _slugs(arms), sink)
        record.about(status="running", origins=dict(origins))
        logger.info("run begins in {}", folder)
        return record

    @_once
    def about(self, **facts: Any) -> None:
        """Add to about.json."""
        path = self.folder / "about.json"
        known = read_table(path) if path.exists() else {}
        known |= {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv),
            "python": platform.python_version(),
            "machine": platform.platform(),
            "threads": torch.get_num_threads(),
            "libraries": {name: version(name) for name in LIBRARIES},
        }
        write(path, json.dumps(known | facts, indent=1, ensure_ascii=False) + "\n")

    @_once
    def close(self, status: str) -> None:
        """End the run: "done", "interrupted" or "failed: why"."""
        self.about(status=status)
        logger.info("run ends: {}", status)
        logger.remove(self._sink)
        logger.disable("align")

    @_once
    def forget_metrics(self, arm: str, after: int) -> None:
        """Drop an arm's lines from step `after` on: they are about to be written anew."""
        if (path := self.folder / "metrics.jsonl").exists():
            lines = map(_read, read_text(path).splitlines())
            others = [v for v in lines if v and (v["arm"] != arm or v["step"] < after)]
            write(path, "".join(json.dumps(v) + "\n" for v in others))

    @_once
    def step(self, arm: str, index: int, info: Info) -> None:
        """Add a line to metrics.jsonl, and the step's pictures if there are any."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            errors = {"errors": dict(info.errors)} if info.errors else {}
            file.write(json.dumps({"arm": arm, "step": index, **info.numbers, **errors}) + "\n")
        if info.pictures is not None:
            place = self.folder / "looks" / self.arms[arm] / f"{index + 1:06d}.png"
            save_picture(place, mosaic(to_bytes(info.pictures)))

    @_once
    def samples(self, arm: str, x1: Tensor, data: Tensor) -> None:
        """Keep clean states (B, *S), and decoded pictures (B, 3, H, W) one by one."""
        folder = self.folder / self.sample_folders()[arm]
        states = {"x1": x1.detach().cpu().contiguous()}
        write(folder / "states.safetensors", to_safetensors(states))
        if data.dim() == 4:
            for index, picture in enumerate(to_bytes(data)):
                save_picture(folder / f"{index:04d}.png", picture)

    @_once
    def given(self, pictures: Mapping[str, Tensor]) -> None:
        """Keep pictures (C, H, W) that samples are to be seen beside, in this order."""
        for index, (name, picture) in enumerate(pictures.items()):
            path = self.folder / "given" / f"{index}_{slug(name)}.png"
            save_picture(path, to_bytes(picture[None])[0])

    @_once
    def results(self, results: RunResults) -> None:
        """Keep the numbers of every arm in results.json."""
        save_results(self.folder, results)

    def sample_folders(self) -> dict[str, str]:
        """Where the samples of each arm are, by the arm's name, relative to the run folder."""
        return {arm: f"samples/{slug}" for arm, slug in self.arms.items()}

    def checkpoint(self, arm: str, saved: Mapping[str, Any]) -> None:
        """Keep what a resumed run starts from."""
        checkpoint.write(self._home(arm), saved)

    def saved(self, arm: str) -> dict[str, Any] | None:
        """What an interrupted run left behind."""
        return checkpoint.read(self._home(arm))

    def export(self, arm: str, export: Export) -> Path:
        """Write the trained weights."""
        path = self._home(arm) / "model.safetensors"
        self._write(path, export)
        for name, other in export.others.items():
            self._write(path.with_stem(f"model_{name}"), other())
        return path

    @_once
    def _write(self, path: Path, export: Export) -> None:
        weights.write(path, export.modules, export.about, torch.float32)
        for name, content in export.files.items():
            write(path.with_suffix("") / name, content)

    def _home(self, arm: str) -> Path:
        """Where the weights of an arm are: in the run folder, unless there are several arms."""
        return self.folder if len(self.arms) == 1 else self.folder / "weights" / self.arms[arm]


def _read(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None for one that a killed run left unfinished."""
    try:
        numbers: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return numbers
