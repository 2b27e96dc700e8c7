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

from align.errors import PartError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
Entry: TypeAlias = tuple[str, str, str, int, int]
"""Class, name, file, and the place in that file: first byte, and number of bytes (-1: all)."""


@final
@attrs.frozen(eq=False)
class Index:
    """Where each of R pictures lies, and its class.

    Picture r, known as `names[r]`, is `spans[r, 1]` bytes of `files[r]` from byte `spans[r, 0]`
    on; -1 bytes are all. Its class is `classes[labels[r]]`.
    """

    names: tuple[str, ...]
    files: tuple[str, ...]
    spans: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def index(path: str, split: str, classes: tuple[str, ...] = ()) -> Index:
    """Find the pictures of a set; no picture is read.

    A folder's name is that of its class, but for capitals and with "_" for " ". In shards classes
    may be numbers instead, which count through `classes`.

    Raises:
        PartError: there are none, or they have other classes than `classes` (when that is given),
            or an archive is not one.
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
    said, names, where, starts, sizes = zip(*entries, strict=True)
    numbered = is_pattern(path) and all(re.fullmatch(r"-?\d+", label) for label in said)
    labels, known = (_counted if numbered else _named)(path, said, names, classes)
    return Index(names, where, np.array([starts, sizes], np.int64).T, labels, known)


def is_pattern(path: str) -> bool:
    """Whether a path stands for several files: shards."""
    return bool(re.search(r"[{*?\[]", path)) and not Path(path).exists()


def files_of(path: str, split: str) -> list[str]:
    """The files that hold a set: pictures, one archive, or shards; sorted.

    Raises:
        PartError: one of them does not exist.
    """
    if is_pattern(path):
        found = (sorted(glob.glob(each)) or [each] for each in _braces(path))  # noqa: PTH207
        files = [file for some in found for file in some]
    elif Path(path).is_dir():
        return sorted(_walk(path, split))
    else:
        files = [path]
    for file in files:
        if not Path(file).exists():
            raise PartError(f"data: no file or folder '{file}'; docs/training.md says what can be")
    return files


def signature(path: str, split: str) -> str:
    """What tells a set from others: a digest of names and sizes of the files that hold it."""
    digest = hashlib.sha256(split.encode())
    root = Path(path) if Path(path).is_dir() else Path(path).parent
    for file in map(Path, files_of(path, split)):
        name = file.relative_to(root) if file.is_relative_to(root) else file.name
        digest.update(f"\n{name}\t{file.stat().st_size}".encode())
    return digest.hexdigest()


def plain(name: str) -> str:
    """A class's name without what may be written in two ways."""
    return name.lower().replace("_", " ")


def _named(
    path: str, said: Sequence[str], _: Sequence[str], classes: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and classes of pictures whose classes are names."""
    number = match_classes(f"'{path}'", {plain(name) for name in set(said)}, classes)
    return np.array([number[plain(name)] for name in said]), classes or tuple(number)


def match_classes(who: str, found: set[str], classes: tuple[str, ...]) -> dict[str, int]:
    """The number of each class that was found, by its plain name.

    Raises:
        PartError: they are not those of the model (when it has any).
    """
    number = {plain(name): k for k, name in enumerate(classes or sorted(found))}
    if found != set(number):
        odd = ", ".join(sorted(found ^ set(number)))
        raise PartError(f"data: the classes of {who} differ from the model's in: {odd}")
    return number


def _counted(
    path: str, said: Sequence[str], names: Sequence[str], classes: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and classes of pictures whose classes are numbers."""
    numbers = np.array(said, np.int64)
    if not classes:
        found, labels = np.unique(numbers, return_inverse=True)
        return labels, tuple(map(str, found.tolist()))
    for row in np.flatnonzero((numbers < 0) | (numbers >= len(classes)))[:1]:
        raise PartError(
            f"data: class {numbers[row]} of '{names[row]}' in '{path}' is out of range:"
            f" the model's {len(classes)} classes are counted from 0"
        )
    return numbers, classes


def _braces(path: str) -> Iterator[str]:
    """'x-{08..10}.tar' as x-08.tar, x-09.tar, x-10.tar."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", path)
    if not found:
        yield path
        return
    for number in range(int(found[1]), int(found[2]) + 1):
        yield from _braces(f"{path[: found.start()]}{number:0{len(found[1])}}{path[found.end() :]}")


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
            elif said := _said(label, f"'{member.name}' in '{path}'"):
                labels.setdefault(key, said)
    for key, (name, start, size) in places.items():
        if key not in labels:
            raise PartError(
                f"data: '{name}' in '{path}' has no class: expected {key}.cls,"
                f" or {key}.json with a field 'label' or 'class'"
            )
        yield labels[key], name, path, start, size


def _said(text: str, who: str) -> str:
    """The class in a JSON text; "" if it names none."""
    try:
        said = json.loads(text)
    except json.JSONDecodeError as error:
        raise PartError(f"data: {who} is not JSON: {error}") from error
    found = (said.get("label"), said.get("class")) if isinstance(said, dict) else ()
    return next((str(one) for one in found if type(one) in (int, str)), "")
