"""The run folder: everything needed to look at a run, trust it, and run it again.

recipe.toml      every value resolved; `align run RUN/recipe.toml` repeats the run
about.json       origin and version of every part, libraries, machine, how the run ended; while it
                 goes on, its heartbeat
metrics.jsonl    one line a step
log.txt          what happened, with times
samples/<arm>/   pictures (PNG) and clean states (states.safetensors); samples.npz on request
blocks/          while the run goes on, what is finished of it
given/           pictures that samples are to be seen beside
results.json, table.md, grid.png, curves.png, tradeoff.png; study.md, study.png
run.lock         whose the folder is, while the run goes on
checkpoint-<steps>/, model.safetensors, model_<decay>.safetensors, model/ of a training run
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import shlex
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar, cast, final

import attrs
import torch
from loguru import logger
from torch import Tensor

from align.catalog.registry import Catalog
from align.core.chunks import Chunks
from align.core.errors import PartError
from align.core.mode import Export, Info
from align.core.reward import HasOrigins
from align.io import files
from align.io import lock as locks
from align.io.files import read_table, write
from align.io.images import mosaic, save_picture, to_bytes
from align.io.text import number_of
from align.recipe import Recipe
from align.report.schema import (
    METRICS,
    RunResults,
    metrics_digest,
    read_metrics,
    recipe_digest,
    sample_files,
)
from align.report.schema import save as save_results
from align.runner.folder import (
    check_places,
    claim,
    finished_blocks,
    first_missing,
    remove_empty,
    slug,
    slugs,
)
from align.runner.samples import Samples
from align.training import checkpoint, parallel, weights

Writes = TypeVar("Writes", bound=Callable[..., None])


# What a run writes before it has made anything that is worth to be kept.
_BEGINNINGS: Final = frozenset({"recipe.toml", "about.json", "log.txt", "given", locks.NAME})

LIBRARIES = ("align-core", "torch", "numpy", "attrs", "cattrs", "safetensors", "pillow")


def libraries() -> dict[str, str]:
    """Versions of what numbers may depend on, by name."""
    return {name: version(name) for name in LIBRARIES}


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
        recipe: the resolved recipe.
    """

    folder: Path
    arms: Mapping[str, str]
    recipe: str
    _lock: locks.Lock | None = None
    _log: _Log | None = None
    _made: Path | None = None
    _facts: dict[str, Any] = attrs.field(factory=dict)
    _steps: dict[str, _Steps] = attrs.field(factory=lambda: defaultdict(_Steps))
    _pulse: Pulse = attrs.field(factory=lambda: Pulse())

    @classmethod
    def open(
        cls, out: Path, recipe: str, origins: Mapping[str, str], arms: Sequence[str]
    ) -> Record:
        """Begin a run folder, or go on with one; all processes must ask.

        Args:
            out: the folder, if it is not another recipe's; else one beside it is taken.
            recipe: the resolved recipe.
            origins: of its parts.
            arms: names of its arms.

        Raises:
            TakenError: another process runs the same recipe there.
            PartError: the folder cannot be written, or what is in it is damaged.
        """
        if not parallel.first():
            return cls(Path(parallel.of_first("")), slugs(arms), recipe)
        ours = claim(out, recipe)
        record = cls(ours.folder, slugs(arms), recipe, ours.lock, made=ours.made)
        try:
            record = record._begun(origins)
        except BaseException:
            record._release(discard=True)
            raise
        parallel.of_first(str(record.folder))
        return record

    def _begun(self, origins: Mapping[str, str]) -> Record:
        if link := files.first_link(self.folder):
            text = f"'{link}' is a link, and a run writes into its own folder alone"
            raise PartError(f"{text}; remove it")
        check_places(self.folder)
        about = self.folder / "about.json"
        facts = read_table(about) if os.path.lexists(about) else {}
        read_metrics(self.folder)
        write(self.folder / "recipe.toml", self.recipe)
        logger.enable("align")
        record = attrs.evolve(self, log=_Log.open(self.folder / "log.txt"), facts=facts)
        record.about(status="running", origins=dict(origins))
        record._pulse.start(record._beat)
        logger.info("run begins in {}", self.folder)
        return record

    @_once
    def about(self, **facts: Any) -> None:
        """Add to about.json."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._pulse.writing:
            self._facts.update(
                {
                    "time": now,
                    "heartbeat": now,
                    "command": shlex.join(sys.argv),
                    "python": platform.python_version(),
                    "machine": platform.platform(),
                    "host": platform.node(),
                    "process": os.getpid(),
                    "threads": torch.get_num_threads(),
                    "libraries": libraries(),
                    **facts,
                }
            )
            self._write_about()

    @_once
    def follow(self, arm: str, chunks: Chunks) -> None:
        """Keep in about.json how many rows go through the parts of an arm at once.

        A run that goes on, or that is repeated in its folder, takes no more than before: then its
        numbers have the same bits.
        """
        known = _table(self._facts.get("chunks"))
        chunks.before = _rows(known.get(arm))

        def changed() -> None:
            with self._pulse.writing:  # the next sign of life takes it along
                self._facts["chunks"] = {**known, arm: dict(chunks.rows)}

        chunks.changed = changed

    def chunk_rows(self) -> dict[str, dict[str, int]]:
        """How many rows went through the parts of each arm at once, as about.json has them."""
        known = _table(self._facts.get("chunks"))
        return {arm: _rows(table) for arm, table in known.items()}

    @_once
    def add_chunk_rows(self, arm: str, rows: Mapping[str, int]) -> None:
        """Keep in about.json how many rows went through the parts of an arm at once elsewhere."""
        if rows:
            self.about(chunks={**self.chunk_rows(), arm: dict(rows)})

    def _write_about(self) -> None:
        text = json.dumps(self._facts, indent=1, ensure_ascii=False) + "\n"
        write(self.folder / "about.json", text)

    def _beat(self) -> None:
        """Give a sign of life, as long as the run goes on."""
        if self._lock:
            self._lock.beat()
        with self._pulse.writing, suppress(PartError):
            self._facts["heartbeat"] = datetime.now(UTC).isoformat(timespec="seconds")
            self._write_about()

    @_once
    def close(self, status: str) -> None:
        """End the run: "done", "interrupted" or "failed: why"; the folder stays this process's."""
        self._pulse.stop()
        try:
            self.about(status=status)
        except PartError:
            if status == "done":
                raise
            # What is raised already says more.
        finally:
            logger.info("run ends: {}", status)
            if self._log:
                self._log.close()
            logger.disable("align")

    @_once
    def release(self, *, discard: bool = False) -> None:
        """Let others have the folder.

        Args:
            discard: remove it, if this run made it and has nothing in it that is worth to be kept.
        """
        self._release(discard=discard)

    def _release(self, *, discard: bool) -> None:
        if discard and self._made and not any(self._results()):
            for name in _BEGINNINGS - {locks.NAME}:
                files.remove(self.folder / name)
        if self._lock:
            self._lock.release()
        if discard and self._made:
            remove_empty(self.folder, self._made)

    def _results(self) -> Iterator[Path]:
        return (path for path in self.folder.iterdir() if path.name not in _BEGINNINGS)

    @_once
    def forget_metrics(self, arm: str, after: int, known: str | None = None) -> None:
        """Drop an arm's lines from step `after` on: they are about to be written anew.

        Args:
            arm: its name.
            after: number of steps that it goes on from.
            known: digest of the lines of the steps before, if its checkpoint has one. A file
                without any of them is told, and costs the curves alone.

        Raises:
            PartError: they are not the lines that the checkpoint knows.
        """
        path, steps = self.folder / METRICS, _Steps()
        lines = read_metrics(self.folder)
        kept = [v for v in lines if v["arm"] != arm or v["step"] < after]
        texts = [_metrics_line(v) for v in kept]
        for line, text in zip(kept, texts, strict=True):
            if line["arm"] == arm:
                steps.add(text)
        if known not in (None, steps.digest()):
            if steps.count:
                raise PartError(
                    f"'{path}' is not what was written until the checkpoint of '{arm}' after"
                    f" {after} steps; put it back, or remove it: then the curves begin there"
                )
            text = "'{}' has no steps of '{}' before its checkpoint; its curves begin at step {}"
            logger.bind(notice=True).warning(text, path, arm, after)
        self._steps[arm] = steps
        if path.exists():
            write(path, "".join(texts))

    @_once
    def step(self, arm: str, index: int, info: Info) -> None:
        """Add a line to metrics.jsonl, and the step's pictures if there are any."""
        errors = {"errors": dict(info.errors)} if info.errors else {}
        line = _metrics_line({"arm": arm, "step": index, **info.numbers, **errors})
        files.append(self.folder / METRICS, line)
        self._steps[arm].add(line)
        if info.pictures is not None:
            place = self.folder / "looks" / self.arms[arm] / f"{index + 1:06d}.png"
            save_picture(place, mosaic(to_bytes(info.pictures), captions=info.captions))

    @_once
    def samples(self, arm: str, x1: Tensor, data: Tensor) -> None:
        """Keep clean states (B, *S), and decoded pictures (B, 3, H, W) one by one."""
        samples = Samples(self.folder / self.sample_folders()[arm], len(x1))
        samples.write_pictures(0, data)
        samples.write_states([x1])

    @_once
    def given(self, pictures: Mapping[str, Tensor]) -> None:
        """Keep pictures (C, H, W) that samples are to be seen beside, in this order."""
        for index, (name, picture) in enumerate(pictures.items()):
            path = self.folder / "given" / f"{index}_{slug(name)}.png"
            save_picture(path, to_bytes(picture[None])[0])

    @_once
    def results(self, results: RunResults) -> None:
        """Keep the numbers of every arm in results.json, with digests of recipe and samples."""
        arms = tuple(
            attrs.evolve(arm, files=sample_files(self.folder / arm.folder)) if arm.samples else arm
            for arm in results.arms
        )
        recipe = recipe_digest(self.recipe)
        metrics = metrics_digest(self.folder)
        save_results(self.folder, attrs.evolve(results, arms=arms, recipe=recipe, metrics=metrics))

    def sample_folders(self) -> dict[str, str]:
        """Where the samples of each arm are, by the arm's name, relative to the run folder."""
        return {arm: f"samples/{slug}" for arm, slug in self.arms.items()}

    def checkpoint(self, arm: str, saved: Mapping[str, Any]) -> None:
        """Keep what a resumed run starts from, and which lines of metrics.jsonl belong to it."""
        if parallel.first() and (path := self.folder / METRICS).exists():
            files.keep(path)
        digest = self._steps[arm].digest()
        checkpoint.write(self.home(arm), {**saved, "metrics": digest}, self.identity(arm))

    def saved(self, arm: str) -> dict[str, Any] | None:
        """What an interrupted run left behind."""
        return checkpoint.read(self.home(arm), self.identity(arm))

    def kept(self, command: str = "") -> str:
        """What a run that stops here leaves behind, and the command that takes it up.

        Args:
            command: that began it, where it is not `align run`.
        """
        done = {arm: checkpoint.steps_done(self.home(arm)) for arm in self.arms}
        kept = [
            f"'{arm}' after {number_of(steps, 'step')}"
            for arm, steps in done.items()
            if steps is not None
        ]
        command = command or shlex.join(["align", "run", str(self.folder / "recipe.toml")])
        again = f"`{command}`" if parallel.count() == 1 else "the same command"
        if kept:
            text = f"'{self.folder}' keeps the checkpoint of {' and of '.join(kept)}"
            return f"{text}; {again} goes on from there"
        if blocks := finished_blocks(self.folder):
            are = "the block that is" if blocks == 1 else f"the {blocks} blocks that are"
            return f"'{self.folder}' keeps {are} finished; {again} goes on from there"
        text = f"'{self.folder}' keeps what was written so far, which holds no checkpoint"
        return f"{text}; {again} begins anew"

    def identity(self, arm: str) -> dict[str, str]:
        """What a checkpoint must be of."""
        return {"recipe": recipe_digest(self.recipe), "arm": arm}

    def export(self, arm: str, export: Export) -> Path:
        """Write the trained weights."""
        path = self.home(arm) / "model.safetensors"
        self._write(path, export)
        for name, other in export.others.items():
            self._write(path.with_stem(f"model_{name}"), other())
        return path

    @_once
    def _write(self, path: Path, export: Export) -> None:
        weights.write(path, export.modules, export.about)
        for name, content in export.files.items():
            write(path.with_suffix("") / name, content)

    def home(self, arm: str) -> Path:
        """Where the weights of an arm are: in the run folder, unless there are several arms."""
        return self.folder if len(self.arms) == 1 else self.folder / "weights" / self.arms[arm]


def _table(value: object) -> dict[str, Any]:
    """A table that was read; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def _rows(value: object) -> dict[str, int]:
    """Numbers of rows by part, of a table that was read."""
    return {part: n for part, n in _table(value).items() if isinstance(n, int) and n > 0}


def _metrics_line(numbers: Mapping[str, Any]) -> str:
    """A line of metrics.jsonl; the same for numbers that were read from one."""
    return json.dumps(numbers) + "\n"


@final
class _Steps:
    """The lines of metrics.jsonl about one arm, as far as a checkpoint must know them."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = hashlib.sha256()

    def add(self, line: str) -> None:
        self.count += 1
        self._sum.update(line.encode())

    def digest(self) -> str:
        return self._sum.hexdigest()


@final
@attrs.frozen(eq=False)
class _Log:
    """log.txt, to which lines are added; one that cannot be written is left out."""

    path: Path
    _sink: list[int] = attrs.field(factory=list)

    @classmethod
    def open(cls, path: Path) -> _Log:
        files.append(path, "")  # to see now whether it can be written
        log = cls(path)
        form = "{time} {level} {message}"
        log._sink.append(logger.add(log._add, format=form, level="DEBUG", colorize=False))
        return log

    def _add(self, line: str) -> None:
        with suppress(PartError):
            files.append(self.path, line)

    def close(self) -> None:
        logger.remove(self._sink.pop())


@contextmanager
def held(folder: Path, digest: str, option: str = "run.out") -> Iterator[None]:
    """Keep other processes away from a folder; it goes if it was made here and stays empty.

    Args:
        folder: is made where there is none.
        digest: of what is about to be written, by which others know it.
        option: what names the folder, for messages.

    Raises:
        TakenError: another process has it.
        PartError: nothing can be written there.
    """
    made = first_missing(folder)
    lock, pulse = locks.Lock.take(folder, digest, option), Pulse()
    try:
        pulse.start(lock.beat)
        yield
    finally:
        pulse.stop()
        lock.release()
        if made:
            remove_empty(folder, made)


@final
class Pulse:
    """Does something again and again, until it is stopped, in a thread of its own."""

    def __init__(self) -> None:
        self.writing = threading.RLock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, beat: Callable[[], None]) -> None:
        """Begin to do it."""

        def beats() -> None:
            while not self._stopped.wait(locks.HEARTBEAT):
                beat()

        self._thread = threading.Thread(target=beats, name="align heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Do it no more."""
        self._stopped.set()
        if self._thread:
            self._thread.join()
