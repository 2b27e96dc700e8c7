"""Where the pictures of a set lie: in a folder, in a tar archive, or in WebDataset shards."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeAlias, final

import attrs
import numpy as np

from align.core.dataset import plain_name
from align.core.errors import PartError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
Entry: TypeAlias = tuple[str, str, str, int, int]
"""Class, name, file, and the place in that file: first byte, and number of bytes (-1: all)."""


@final
@attrs.frozen(eq=False)
class Index:
    """Where each of R pictures lies, and its class.

    Picture r, known as `names[r]`, is `spans[r, 1]` bytes of `files[r]` from byte `spans[r, 0]`
    on; -1 bytes are all. Its class is `classes[labels[r]]`, or the number `labels[r]` where the
    set has no class names.
    """

    names: tuple[str, ...]
    files: tuple[str, ...]
    spans: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def index(path: str, split: str) -> Index:
    """Find the pictures of a set; no picture is read.

    A folder's name is that of its class, but for capitals and with "_" for " ". In shards classes
    may be numbers instead.

    Raises:
        PartError: there are none, or an archive is not one.
    """
    files = files_of(path, split)
    if is_pattern(path):
        entries = [entry for file in files for entry in _shard(file)]
    elif Path(path).is_file():
        entries = sorted(_archive(path, split))
    else:
        entries = sorted((Path(file).parent.name, file, file, 0, -1) for file in files)
    if not entries:
        inside = "pictures" if is_pattern(path) else f"pictures in <...>/{split}/<class>/"
        hint = "" if is_pattern(path) else "; WebDataset shards are given by a pattern, 'x-*.tar'"
        raise PartError(f"data: '{path}' has no {inside}{hint}")
    class_of, names, files_with, starts, sizes = zip(*entries, strict=True)
    labels, classes = _numbered(class_of, numbers_allowed=is_pattern(path))
    return Index(names, files_with, np.array([starts, sizes], np.int64).T, labels, classes)


def _numbered(
    class_of: Sequence[str], *, numbers_allowed: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names of pictures; no names where all classes are numbers already."""
    if numbers_allowed and all(re.fullmatch(r"-?\d+", name) for name in class_of):
        return np.array(class_of, np.int64), ()
    classes = tuple(sorted({plain_name(name) for name in set(class_of)}))
    number = {name: k for k, name in enumerate(classes)}
    return np.array([number[plain_name(name)] for name in class_of]), classes


def is_pattern(path: str) -> bool:
    """Whether a path stands for several files: shards."""
    return bool(re.search(r"[{*?\[]", path)) and not Path(path).exists()


def files_of(path: str, split: str) -> list[str]:
    """The files that hold a set: pictures, one archive, or shards; sorted.

    Raises:
        PartError: one of them does not exist.
    """
    if is_pattern(path):
        matches = (sorted(glob.glob(name)) or [name] for name in _braces(path))  # noqa: PTH207
        files = [file for group in matches for file in group]
    elif Path(path).is_dir():
        return sorted(_walk(path, split))
    else:
        files = [path]
    for file in files:
        if not Path(file).exists():
            raise PartError(f"data: no file or folder '{file}'; docs/training.md says what can be")
    return files


def signature(path: str, split: str) -> str:
    """A digest of the names and sizes of the files that hold a set: it tells sets apart."""
    digest = hashlib.sha256(split.encode())
    root = Path(path) if Path(path).is_dir() else Path(path).parent
    for file in map(Path, files_of(path, split)):
        name = file.relative_to(root) if file.is_relative_to(root) else file.name
        digest.update(f"\n{name}\t{file.stat().st_size}".encode())
    return digest.hexdigest()


def _braces(path: str) -> Iterator[str]:
    """'x-{08..10}.tar' as x-08.tar, x-09.tar, x-10.tar."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", path)
    if not braces:
        yield path
        return
    before, after = path[: braces.start()], path[braces.end() :]
    for number in range(int(braces[1]), int(braces[2]) + 1):
        yield from _braces(f"{before}{number:0{len(braces[1])}}{after}")


def _walk(folder: str, split: str) -> Iterator[str]:
    # Walked with plain strings: a set may have millions of files.
    for place, _, names in os.walk(folder):
        if Path(place).parent.name == split:
            yield from (f"{place}/{name}" for name in names if _is_picture(name))


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _members(path: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The files in an archive, one after the other."""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile():
                    yield archive, member
    except tarfile.TarError as error:
        raise PartError(
            f"data: '{path}' is not a tar archive, or is compressed, or cut off: {error}"
        ) from error


def _archive(path: str, split: str) -> Iterator[Entry]:
    """Entries of <...>/<split>/<class>/<picture>."""
    for _, member in _members(path):
        place = PurePosixPath(member.name)
        if place.parent.parent.name == split and _is_picture(place.name):
            yield place.parent.name, member.name, path, member.offset_data, member.size


def _shard(path: str) -> Iterator[Entry]:
    """Entries of <key>.<picture suffix> beside <key>.cls or <key>.json."""
    places: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    for archive, member in _members(path):
        place = PurePosixPath(member.name)
        stem, _, kind = place.name.partition(".")
        if not stem:
            continue
        key = str(place.with_name(stem))
        if f".{kind.lower()}" in SUFFIXES:
            places[key] = member.name, member.offset_data, member.size
        elif kind in ("cls", "json") and (stream := archive.extractfile(member)):
            label = stream.read().decode(errors="replace").strip()
            if kind == "cls":
                labels[key] = label
            elif name := _class_in(label, f"'{member.name}' in '{path}'"):
                labels.setdefault(key, name)
    for key, (name, start, size) in places.items():
        if key not in labels:
            raise PartError(
                f"data: '{name}' in '{path}' has no class: expected {key}.cls,"
                f" or {key}.json with a field 'label' or 'class'"
            )
        yield labels[key], name, path, start, size


def _class_in(text: str, file: str) -> str:
    """The class that a JSON text names; "" if it names none."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise PartError(f"data: {file} is not JSON: {error}") from error
    values = (fields.get("label"), fields.get("class")) if isinstance(fields, dict) else ()
    return next((str(value) for value in values if type(value) in (int, str)), "")
