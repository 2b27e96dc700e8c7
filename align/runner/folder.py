"""Which folder a run may have, and what files and folders in it are called."""

from __future__ import annotations

import itertools
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import attrs

from align.core.errors import FolderError, PartError, TakenError
from align.io import lock as locks
from align.io.files import read_text
from align.io.text import cut_to_bytes, shortened
from align.report.schema import NOT_OF_THE_RUN, by_content, recipe_digest

BLOCKS: Final = "blocks"
_FOLDERS: Final = ("samples", "given", "looks", "weights", BLOCKS)
_FILES: Final = (
    "recipe.toml",
    "about.json",
    "metrics.jsonl",
    "log.txt",
    "results.json",
    "model.safetensors",
)

EXTENSION: Final = "extension"
"""Folder in which more samples of a run are made, before they are part of it."""

SLUG_BYTES: Final = 80

# Names of files and folders that a run adds to them have room within what systems allow.
_NAME_BYTES: Final = 240
_PATH_BYTES: Final = 3800

_MANY: Final = 5  # keys that are named
# Keys that make no other recipe; files are named one by one.
_APART: Final = re.compile(rf"(files|run\.({'|'.join(sorted(NOT_OF_THE_RUN))}))(\.|$)")


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
    identity = recipe_digest(recipe)
    for folder in _candidates(out):
        if not _is_free(folder, identity):
            continue
        made = first_missing(folder)
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
    raise PartError(_none_left(out))


def would_claim(out: Path, recipe: str) -> Path:
    """The folder that `claim` would give; nothing is written. Raises PartError as it does."""
    identity = recipe_digest(recipe)
    for folder in _candidates(out):
        if _is_free(folder, identity):
            return folder
    raise PartError(_none_left(out))


def _candidates(out: Path) -> Iterator[Path]:
    out = _named(out)
    yield out
    yield from (out.with_name(f"{out.name}-{number}") for number in range(2, 1000))


def _none_left(out: Path) -> str:
    return f"run.out: '{out}' and 999 folders beside it are taken; choose another"


def differences(out: Path, recipe: str) -> str:
    """The keys and files in which `recipe` differs from that of the run in `out`, if any."""
    try:
        old, new = tomllib.loads(read_text(out / "recipe.toml")), tomllib.loads(recipe)
    except (OSError, ValueError, PartError):
        return ""
    before, after = dict(_flat(by_content(old))), dict(_flat(by_content(new)))
    keys = [key for key in before | after if before.get(key) != after.get(key)]
    keys = [key for key in keys if not _APART.match(key)]
    known = set(before.get("files") or ())
    files = new.get("files", {}).items()
    keys += [f"'{path}'" for path, digest in files if digest not in known]
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


def slug(name: str) -> str:
    """A name as a folder's name, of at most 80 bytes."""
    plain = re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_.")
    return cut_to_bytes(plain, SLUG_BYTES).rstrip("_.") or "arm"


def slugs(arms: Sequence[str]) -> dict[str, str]:
    """A folder's name for each arm, no two alike."""
    names: dict[str, str] = {}
    for arm in arms:
        names[arm] = next(name for name in _tried(slug(arm)) if name not in names.values())
    return names


def _tried(name: str) -> Iterator[str]:
    """A name, and others with a number at their end that are no longer than 80 bytes."""
    yield name
    for count in itertools.count(2):
        end = f"_{count}"
        yield cut_to_bytes(name, SLUG_BYTES - len(end)) + end


def check_places(folder: Path) -> None:
    """Look whether something is in the way of a file or folder that a run writes.

    Raises:
        PartError: it is.
    """
    names = [name for names in (_FOLDERS, _FILES) for name in names]
    for path in (folder / name for name in names if os.path.lexists(folder / name)):
        wanted = "folder" if path.name in _FOLDERS else "file"
        if not (path.is_dir() if wanted == "folder" else path.is_file()):
            raise PartError(f"'{path}' is no {wanted}; move it away")


def finished_blocks(folder: Path) -> int:
    """How many blocks of samples a run folder keeps, until the run is done."""
    return sum(1 for _ in (folder / BLOCKS).glob("*/*.safetensors"))


def first_missing(folder: Path) -> Path | None:
    """The outermost folder that is to be made so that `folder` is there; None if it is."""
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    return missing[-1] if missing else None


def remove_empty(folder: Path, made: Path) -> None:
    """Remove a folder, and those around it up to `made`, as long as they are empty."""
    for path in (folder, *folder.parents):
        try:
            path.rmdir()
        except OSError:
            return
        if path == made:
            return
