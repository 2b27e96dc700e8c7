"""Where the pictures of a set lie: in a folder, in a tar archive, or in WebDataset shards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias, final

import attrs
import numpy as np

from align.core.dataset import plain_name
from align.core.errors import PartError
from align.io.images import SUFFIXES
from align.io.paths import is_pattern, leads_up, matches

_MANY: Final = 8
Entry: TypeAlias = tuple[str, str, str, int, int]
"""Class, name, file, and the place in that file: first byte, and number of bytes (-1: all)."""


@final
@attrs.frozen(eq=False)
class Index:
    """Where each of R pictures lies, and its class.

    Picture r, known as `names[r]`, is `spans[r, 1]` bytes of `files[r]` from byte `spans[r, 0]`
    on; -1 bytes are all. Its class is `classes[labels[r]]`, or the number `labels[r]` where the
    set has no class names. `left_out` counts what lies beside the pictures; empty if nothing does.
    """

    names: tuple[str, ...]
    files: tuple[str, ...]
    spans: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    left_out: str = ""


@final
@attrs.frozen(eq=False)
class _LeftOut:
    """What lies where pictures are expected and is none of the rows, counted by class."""

    counts: dict[str, Counter[str]] = attrs.field(factory=dict)

    def add(self, name: str, what: str = "", count: int = 1) -> None:
        """Count what is left out of a class; of no class if its name is empty."""
        counts = self.counts.setdefault(name, Counter())
        if what:
            counts[what] += count

    def file(self, name: str, file: str) -> None:
        """Count a file that is no picture by its ending; hidden ones are nobody's."""
        base = PurePosixPath(file)
        if not base.name.startswith("."):
            self.add(name, f"{base.suffix.lower()[:20] or 'without an ending'}")

    def refuse_empty(self, path: str, classes: Collection[str]) -> None:
        """Raise PartError for a class without a picture."""
        for name in sorted(self.counts):
            if name and name not in classes:
                inside = _counted(self.counts[name]) or "nothing"
                raise PartError(
                    f"data: class '{name}' of '{path}' has no picture that is read"
                    f" ({', '.join(SUFFIXES)}), but {inside}; convert them, or take the class out"
                )

    def __str__(self) -> str:
        return _counted(sum(self.counts.values(), Counter()))


def _counted(counts: Counter[str]) -> str:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count} {'with ' if what[0] == '.' else ''}{what}" for what, count in ranked]
    return ", ".join(shown[:_MANY]) + (", ..." if len(shown) > _MANY else "")


def index(path: str, split: str) -> Index:
    """Find the pictures of a set; no picture is read.

    A folder's name is that of its class, but for capitals and with "_" for " ". In shards classes
    may be numbers instead.

    Raises:
        PartError: there are none, or none of a class, or an archive is not one.
    """
    left_out = _LeftOut()
    if is_pattern(path):
        entries = [entry for file in files_of(path, split) for entry in _shard(file, left_out)]
    elif Path(path).is_dir():
        files = _walk(path, split, left_out)
        entries = sorted((Path(file).parent.name, file, file, 0, -1) for file in files)
    else:
        (file,) = files_of(path, split)
        entries = sorted(_archive(file, split, left_out))
    left_out.refuse_empty(path, {entry[0] for entry in entries})
    if not entries:
        inside = "pictures" if is_pattern(path) else f"pictures in <...>/{split}/<class>/"
        hint = "" if is_pattern(path) else "; WebDataset shards are given by a pattern, 'x-*.tar'"
        raise PartError(f"data: '{path}' has no {inside}{hint}")
    class_of, names, files_with, starts, sizes = zip(*entries, strict=True)
    labels, classes = _numbered(class_of, numbers_allowed=is_pattern(path))
    spans = np.array([starts, sizes], np.int64).T
    return Index(names, files_with, spans, labels, classes, str(left_out))


def _numbered(
    class_of: Sequence[str], *, numbers_allowed: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and class names of pictures; no names where all classes are numbers already."""
    if numbers_allowed and all(re.fullmatch(r"-?\d+", name) for name in class_of):
        return np.array(class_of, np.int64), ()
    classes = tuple(sorted({plain_name(name) for name in set(class_of)}))
    number = {name: k for k, name in enumerate(classes)}
    return np.array([number[plain_name(name)] for name in class_of]), classes


def files_of(path: str, split: str) -> list[str]:
    """The files that hold a set: pictures, one archive, or shards; sorted.

    Raises:
        PartError: one of them does not exist.
    """
    if is_pattern(path):
        files = matches(path)
    elif Path(path).is_dir():
        return sorted(_walk(path, split, _LeftOut()))
    else:
        files = [path]
    for file in files:
        if not Path(file).exists():
            raise PartError(
                f"data: no file or folder '{file}'; docs/how_to/training.md says what can be"
            )
    return files


def signature(path: str, split: str) -> str:
    """A digest of the names and sizes of the files that hold a set: it tells sets apart."""
    digest = hashlib.sha256(split.encode())
    root = Path(path) if Path(path).is_dir() else Path(path).parent
    for file in map(Path, files_of(path, split)):
        name = file.relative_to(root) if file.is_relative_to(root) else file.name
        try:
            size = file.stat().st_size
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise PartError(f"data: '{file}' cannot be read: {reason}") from error
        digest.update(f"\n{name}\t{size}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _walk(folder: str, split: str, left_out: _LeftOut) -> Iterator[str]:
    """The pictures of a folder; links are followed, but not round in circles."""
    # Walked with plain strings: a set may have millions of files.
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if name[0] != "." and not leads_up(place, name)]
        name = Path(place).name
        if Path(place).parent.name == split:
            left_out.add(name, "of folders" if inner else "", len(inner))
            for file in names:
                if _is_picture(file):
                    yield f"{place}/{file}"
                else:
                    left_out.file(name, file)
        elif name == split:
            left_out.add("", "of no class", sum(map(_is_picture, names)))


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _members(path: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of an archive, one after the other."""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                yield archive, member
    except (tarfile.TarError, EOFError) as error:
        raise PartError(
            f"data: '{path}' is not a tar archive, or is compressed, or cut off: {error}"
        ) from error


def _archive(path: str, split: str, left_out: _LeftOut) -> Iterator[Entry]:
    """Entries of <...>/<split>/<class>/<picture>."""
    entries: dict[str, Entry] = {}
    for _, member in _members(path):
        place = PurePosixPath(member.name)
        if place.parent.parent.name != split:
            if place.parent.name == split and not member.isdir() and _is_picture(place.name):
                left_out.add("", "of no class")
            continue
        name = place.parent.name
        if not member.isfile():
            left_out.add(name, "" if member.isdir() else "links")
        elif not _is_picture(place.name):
            left_out.file(name, place.name)
        else:
            if member.name in entries:  # unpacking leaves the last
                left_out.add(name, "of a name that comes again")
            entries[member.name] = name, member.name, path, member.offset_data, member.size
    yield from entries.values()


def _shard(path: str, left_out: _LeftOut) -> Iterator[Entry]:
    """Entries of <key>.<picture suffix> beside <key>.cls or <key>.json."""
    places, labels = _keys(path, left_out)
    for key, (name, start, size) in places.items():
        if key not in labels:
            raise PartError(
                f"data: '{name}' in '{path}' has no class: expected {key}.cls,"
                f" or {key}.json with a field 'label' or 'class'"
            )
        yield labels[key], name, path, start, size
    for key, label in labels.items():
        if key not in places:
            left_out.add(label, "without a picture")


def _keys(path: str, left_out: _LeftOut) -> tuple[dict[str, tuple[str, int, int]], dict[str, str]]:
    """Name and place of the picture of each key of a shard, and its class."""
    places: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    for archive, member in _members(path):
        place = PurePosixPath(member.name)
        stem, _, kind = place.name.partition(".")
        if not stem or member.isdir():
            continue
        key = str(place.with_name(stem))
        if not member.isfile():
            left_out.add("", "links")
        elif f".{kind.lower()}" in SUFFIXES:
            if key in places:
                left_out.add("", "of a key that comes again")
            places[key] = member.name, member.offset_data, member.size
        elif kind in ("cls", "json") and (stream := archive.extractfile(member)):
            label = stream.read().decode(errors="replace").strip()
            if kind == "cls":
                labels[key] = label
            elif name := _class_in(label, f"'{member.name}' in '{path}'"):
                labels.setdefault(key, name)
    return places, labels


def _class_in(text: str, file: str) -> str:
    """The class that a JSON text names; "" if it names none."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise PartError(f"data: {file} is not JSON: {error}") from error
    values = (fields.get("label"), fields.get("class")) if isinstance(fields, dict) else ()
    return next((str(value) for value in values if type(value) in (int, str)), "")
