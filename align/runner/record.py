"""The run folder: everything needed to look at a run, trust it, and run it again.

recipe.toml      every value resolved; `align run RUN/recipe.toml` repeats the run
about.json       origin and version of every part, libraries, machine, how the run ended; while it
                 goes on, its heartbeat
metrics.jsonl    one line a step
log.txt          what happened, with times
samples/<arm>/   pictures (PNG) and clean states (states.safetensors)
given/           pictures that samples are to be seen beside
results.json, table.md, grid.png, curves.png, tradeoff.png; study.md, study.png
run.lock         whose the folder is, while the run goes on
checkpoint-<steps>/, model.safetensors, model_<decay>.safetensors, model/ of a training run
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import platform
import re
import shlex
import stat
import sys
import threading
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast, final

import attrs
import torch
from loguru import logger
from safetensors.torch import save as to_safetensors
from torch import Tensor

from align.catalog.registry import Catalog
from align.core.errors import FolderError, PartError, TakenError
from align.core.mode import Export, Info
from align.core.reward import HasOrigins
from align.io import files
from align.io import lock as locks
from align.io.files import read_table, read_text, write
from align.io.images import mosaic, save_picture, to_bytes
from align.io.text import cut_to_bytes, shortened
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
from align.training import checkpoint, parallel, weights

Writes = TypeVar("Writes", bound=Callable[..., None])


_FOLDERS: Final = ("samples", "given", "looks", "weights")
_FILES: Final = (
    "recipe.toml",
    "about.json",
    "metrics.jsonl",
    "log.txt",
    "results.json",
    "model.safetensors",
)

SLUG_BYTES: Final = 80

# Names of files and folders that a run adds to them have room within what systems allow.
_NAME_BYTES: Final = 240
_PATH_BYTES: Final = 3800

# What a run writes before it has made anything that is worth to be kept.
_BEGINNINGS: Final = frozenset({"recipe.toml", "about.json", "log.txt", "given", locks.NAME})

_MANY: Final = 5  # keys that are named
LIBRARIES = ("align-core", "torch", "numpy", "attrs", "cattrs", "safetensors", "pillow")


def check_folder(out: Path) -> None:
    """Look whether a run could write into a folder, before anything is done for it.

    Raises:
        FolderError: it cannot, whatever is in the folder.
    """
    if "\0" in str(out):
        raise FolderError("a folder's name cannot hold NUL; take it out")
    if not (whole := _named(out).absolute()).name:
        raise FolderError(f"'{out}' is the root of a disk; name a folder")
    if len(os.fsencode(whole.name)) > _NAME_BYTES or len(os.fsencode(whole)) > _PATH_BYTES:
        raise FolderError(f"the name '{shortened(str(out), 60)}' is too long; choose a shorter one")
    there = next(filter(None, map(_kind_of, (whole, *whole.parents))))
    if there.kind != stat.S_IFDIR:
        raise FolderError(f"'{there.path}' is no folder; choose another name")
    if not os.access(there.path, os.W_OK | os.X_OK):
        raise FolderError(f"you may not write into '{there.path}'; choose another folder")
    if there.path == whole and (what := _everybodys(whole)):
        raise FolderError(f"'{out}' is {what}; name a folder for the run alone, as 'runs/mine'")


def _named(out: Path) -> Path:
    """A folder by a path that ends in its name; '.' and '..' do not."""
    return out if out.name.strip(".") else Path(os.path.abspath(out))  # noqa: PTH100  # without ..


def _everybodys(folder: Path) -> str:
    """What a folder is that holds other things than a run, where it is one of those people are in.

    Empty for all others: a run may share a folder that was named for it.
    """
    if os.path.lexists(folder / "about.json") or not any(folder.iterdir()):
        return ""
    if folder == Path.home():
        return "your home folder, which holds other things"
    if folder == Path.cwd():
        return "the working directory, which holds other things"
    return "a folder around the working directory" if folder in Path.cwd().parents else ""


class _There(NamedTuple):
    """Something on the disk, and the kind of thing that it is."""

    path: Path
    kind: int


def _kind_of(path: Path) -> _There | None:
    """What is at a path, links followed; None if nothing is."""
    try:
        return _There(path, stat.S_IFMT(path.stat().st_mode))
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):  # noqa: PTH114  # `Path.is_symlink` raises below a file
            raise FolderError(f"'{path}' is a link that leads nowhere; remove it") from None
        return None
    except OSError as error:
        name, reason = shortened(str(path), 60), (error.strerror or str(error)).lower()
        raise FolderError(f"'{name}' cannot be used: {reason}; choose another folder") from error


@final
@attrs.frozen(eq=False)
class Claim:
    """A folder that this process alone may write.

    Attributes:
        folder: the run folder.
        lock: keeps others away.
        made: the outermost folder that was made for it; None if all were there.
    """

    folder: Path
    lock: locks.Lock
    made: Path | None


def claim(out: Path, recipe: str) -> Claim:
    """The folder that a run may write, locked: `out`, or beside it if that is another recipe's.

    Raises:
        TakenError: another process runs the same recipe there.
        PartError: the folder cannot be written, or is damaged.
    """
    identity, out = recipe_digest(recipe), _named(out)
    for number in range(1, 1000):
        folder = out if number == 1 else out.with_name(f"{out.name}-{number}")
        if not _is_free(folder, identity):
            continue
        made = _first_missing(folder)
        try:
            lock = locks.Lock.take(folder, identity)
        except TakenError as error:
            if error.digest in (None, identity):
                raise
            continue
        # Another process may have had it since we looked.
        if _is_free(folder, identity):
            return Claim(folder, lock, made)
        lock.release()
    raise PartError(f"run.out: '{out}' and 999 folders beside it are taken; choose another")


def differences(out: Path, recipe: str) -> str:
    """The keys in which `recipe` differs from that of the run in `out`; empty if there is none."""
    try:
        old, new = tomllib.loads(read_text(out / "recipe.toml")), tomllib.loads(recipe)
    except (OSError, ValueError, PartError):
        return ""
    before, after = dict(_flat(old)), dict(_flat(new))
    keys = [key for key in before | after if before.get(key) != after.get(key)]
    keys = [key for key in keys if key not in ("run.out", "run.checkpoint_every")]
    return ", ".join(keys[:_MANY]) + (", ..." if len(keys) > _MANY else "")


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    for name, item in value.items():
        yield from _flat(item, f"{key}.{name}" if key else name)


def _is_free(folder: Path, identity: str) -> bool:
    """Whether a folder holds no run, or one of the same recipe."""
    path = folder / "recipe.toml"
    if not os.path.lexists(path):
        return True
    cure = "remove it; a checkpoint beside it is used if it is this recipe's"
    try:
        text = read_text(path, cure)
        known = recipe_digest(text)
    except tomllib.TOMLDecodeError as error:
        raise PartError(f"'{path}' is damaged: {error}; {cure}") from error
    if "[mode]" not in text:
        raise PartError(f"'{path}' is damaged: it has no [mode]; {cure}")
    return known == identity


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
    """A name as a folder's name, of at most 80 bytes."""
    plain = re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_.")
    return cut_to_bytes(plain, SLUG_BYTES).rstrip("_.") or "arm"


def _slugs(arms: Sequence[str]) -> dict[str, str]:
    """A folder's name for each arm, no two alike."""
    slugs: dict[str, str] = {}
    for arm in arms:
        slugs[arm] = next(name for name in _tried(slug(arm)) if name not in slugs.values())
    return slugs


def _tried(name: str) -> Iterator[str]:
    """A name, and others with a number at their end that are no longer than 80 bytes."""
    yield name
    for count in itertools.count(2):
        end = f"_{count}"
        yield cut_to_bytes(name, SLUG_BYTES - len(end)) + end


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
    _pulse: _Pulse = attrs.field(factory=lambda: _Pulse())

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
            return cls(Path(parallel.of_first("")), _slugs(arms), recipe)
        ours = claim(out, recipe)
        record = cls(ours.folder, _slugs(arms), recipe, ours.lock, made=ours.made)
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
        _check_places(self.folder)
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
                    "command": " ".join(sys.argv),
                    "python": platform.python_version(),
                    "machine": platform.platform(),
                    "host": platform.node(),
                    "process": os.getpid(),
                    "threads": torch.get_num_threads(),
                    "libraries": {name: version(name) for name in LIBRARIES},
                    **facts,
                }
            )
            self._write_about()

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
            _remove_empty(self.folder, self._made)

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
        checkpoint.write(self._home(arm), {**saved, "metrics": digest}, self._identity(arm))

    def saved(self, arm: str) -> dict[str, Any] | None:
        """What an interrupted run left behind."""
        return checkpoint.read(self._home(arm), self._identity(arm))

    def kept(self) -> str:
        """What a run that stops here leaves behind, and the command that takes it up."""
        done = {arm: checkpoint.steps_done(self._home(arm)) for arm in self.arms}
        kept = [f"'{arm}' after {steps} steps" for arm, steps in done.items() if steps is not None]
        command = shlex.join(["align", "run", str(self.folder / "recipe.toml")])
        again = f"`{command}`" if parallel.count() == 1 else "the same command"
        if kept:
            text = f"'{self.folder}' keeps the checkpoint of {' and of '.join(kept)}"
            return f"{text}; {again} goes on from there"
        text = f"'{self.folder}' keeps what was written so far, which holds no checkpoint"
        return f"{text}; {again} begins anew"

    def _identity(self, arm: str) -> dict[str, str]:
        """What a checkpoint must be of."""
        return {"recipe": recipe_digest(self.recipe), "arm": arm}

    def export(self, arm: str, export: Export) -> Path:
        """Write the trained weights."""
        path = self._home(arm) / "model.safetensors"
        self._write(path, export)
        for name, other in export.others.items():
            self._write(path.with_stem(f"model_{name}"), other())
        return path

    @_once
    def _write(self, path: Path, export: Export) -> None:
        weights.write(path, export.modules, export.about)
        for name, content in export.files.items():
            write(path.with_suffix("") / name, content)

    def _home(self, arm: str) -> Path:
        """Where the weights of an arm are: in the run folder, unless there are several arms."""
        return self.folder if len(self.arms) == 1 else self.folder / "weights" / self.arms[arm]


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


def _check_places(folder: Path) -> None:
    """Raise PartError where something is in the way of a file or folder that a run writes."""
    names = [name for names in (_FOLDERS, _FILES) for name in names]
    for path in (folder / name for name in names if os.path.lexists(folder / name)):
        wanted = "folder" if path.name in _FOLDERS else "file"
        if not (path.is_dir() if wanted == "folder" else path.is_file()):
            raise PartError(f"'{path}' is no {wanted}; move it away")


def _first_missing(folder: Path) -> Path | None:
    """The outermost folder that is to be made so that `folder` is there; None if it is."""
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    return missing[-1] if missing else None


def _remove_empty(folder: Path, made: Path) -> None:
    """Remove a folder, and those around it up to `made`, as long as they are empty."""
    for path in (folder, *folder.parents):
        try:
            path.rmdir()
        except OSError:
            return
        if path == made:
            return


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


@final
class _Pulse:
    """Does something again and again, until it is stopped, in a thread of its own."""

    def __init__(self) -> None:
        self.writing = threading.RLock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, beat: Callable[[], None]) -> None:
        def beats() -> None:
            while not self._stopped.wait(locks.HEARTBEAT):
                beat()

        self._thread = threading.Thread(target=beats, name="align heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread:
            self._thread.join()
