"""Files that are kept from run to run, and how many bytes they may take.

An entry is a folder, whose files come and go together. Several processes may read and write at
once: a file takes its place whole, and whoever misses one makes it anew.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final
from uuid import uuid4

import attrs
from loguru import logger

from align.core.errors import PartError
from align.io import files
from align.io.cache_dir import cache_dir

ROOM: Final = "ALIGN_CACHE_GB"
GIGABYTES: Final = 4.0
"""What entries may take together unless ALIGN_CACHE_GB says otherwise."""

_DIGESTS: Final = "digests.json"
_SUFFIX: Final = ".safetensors"
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_BIG: Final = 1 << 22  # bytes; the digest of a smaller file is not worth remembering
_LONG: Final = 2_000_000_000  # bytes, whose reading somebody waits for
_REMEMBERED: Final = 1000  # digests
_SETTLED: Final = 2.0  # seconds since a file changed, after which its times tell a later change
_ABANDONED: Final = 3600.0  # seconds, after which nobody writes an unfinished file any more


def room() -> int:
    """Bytes that entries may take together; 0 keeps nothing.

    Raises:
        PartError: ALIGN_CACHE_GB is no such number.
    """
    text = os.environ.get(ROOM, "") or str(GIGABYTES)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < 1e9:
        raise PartError(
            f"{ROOM} is '{text}'; set it to the gigabytes that the cache may take, such as"
            f" {GIGABYTES:g}, or to 0 for no cache"
        )
    return int(gigabytes * 1e9)


@final
@attrs.frozen
class Entry:
    """An entry as it lies on the disk.

    Attributes:
        folder: of its files, named after its key.
        size: bytes of its files.
        used: when it was last read or written, in seconds since 1970.
    """

    folder: Path
    size: int
    used: float

    def headers(self) -> dict[str, Mapping[str, Any]]:
        """What its files say of themselves, by their names without the suffix."""
        return {path.stem: header(path) for path in sorted(self.folder.glob(f"*{_SUFFIX}"))}


@final
@attrs.frozen
class Cache:
    """The entries in a folder.

    Attributes:
        folder: is made when something is kept in it.
        room: bytes that all entries may take together; those that nobody used go first.
    """

    folder: Path
    room: int

    @classmethod
    def of_user(cls) -> Cache | None:
        """The user's own, of base samples; None where nothing is to be kept.

        Raises:
            PartError: as `room`.
        """
        size = room()
        try:
            return cls(cache_dir("unsteered"), size) if size else None
        except OSError:
            return None  # a user without a home

    def read(self, key: str, name: str) -> bytes | None:
        """A file of an entry, which counts as used now; None where it is not there."""
        path = self._path(key, name)
        if not files.exists_as_file(path):
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):  # somebody else's cache may be one to read alone
            os.utime(path)
        return content

    def write(self, key: str, name: str, content: bytes) -> None:
        """Keep a file of an entry; call `make_room` when all its files are written.

        Raises:
            PartError: it cannot be written, or there will never be room for it.
        """
        path = self._path(key, name)
        if len(content) > self.room:
            text = f"'{path}' takes {files.readable(len(content))}, and the cache may take"
            raise PartError(f"{text} {files.readable(self.room)}; raise {ROOM}")
        beside = path.with_name(f"{uuid4().hex}.new")  # each process its own
        try:
            # Not synced: a file that a crash of the machine cut is noticed by its digest.
            with files.writing(self.folder, len(content)):
                path.parent.mkdir(parents=True, exist_ok=True)
                beside.write_bytes(content)
                beside.replace(path)
        except BaseException:
            files.remove(beside)
            with suppress(OSError):  # others have files in it
                path.parent.rmdir()
            raise

    def make_room(self, key: str) -> None:
        """Remove entries that are too many, the longest unused first and that of this key last."""
        entries = self.entries()
        left = sum(entry.size for entry in entries)
        for entry in sorted(entries, key=lambda entry: (entry.folder.name == key, entry.used)):
            if left <= self.room:
                return
            files.remove(entry.folder)
            left -= entry.size

    def discard(self, key: str, name: str = "") -> None:
        """Remove a file of an entry, or all of them, as far as that can be done."""
        files.remove(self._path(key, name))

    def entries(self) -> list[Entry]:
        """All entries, the last used ones first."""
        try:
            folders = [path for path in self.folder.iterdir() if _is_entry(path)]
        except OSError:
            return []
        entries = [entry for folder in folders if (entry := _entry(folder)) is not None]
        return sorted(entries, key=lambda entry: entry.used, reverse=True)

    def clear(self) -> int:
        """Remove all entries and what is remembered of files; returns how many bytes that frees.

        Raises:
            PartError: an entry cannot be removed.
        """
        before = self.entries()
        for entry in before:
            files.remove(entry.folder)
        files.remove(self.folder / _DIGESTS)
        if left := self.entries():
            raise PartError(f"'{left[0].folder}' cannot be removed; look whose it is")
        return sum(entry.size for entry in before)

    def digest(self, path: Path) -> str:
        """SHA-256 of a file, which is read again only where it may have changed.

        That is told by its size, its times and its place on the disk, all as fine as the disk has
        them; a file that has just changed is not remembered.
        """
        status = path.stat()
        if status.st_size < _BIG:
            return files.digest(path)
        known = self._digests()
        place = str(path.resolve())
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        if isinstance(found := known.get(place), list) and found[:4] == state and len(found) == 5:
            return str(found[4])
        if status.st_size > _LONG:
            text = "'{}', {}, is read once, to know samples that were made with it"
            logger.bind(notice=True).info(text, path, files.readable(status.st_size))
        digest = files.digest(path)
        if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED:
            known.pop(place, None)
            known[place] = [*state, digest]
            self._remember(dict(list(known.items())[-_REMEMBERED:]))
        return digest

    def _digests(self) -> dict[str, Any]:
        path = self.folder / _DIGESTS
        try:
            return files.read_table(path) if path.is_file() else {}
        except (OSError, PartError):
            return {}

    def _remember(self, digests: Mapping[str, Any]) -> None:
        beside = self.folder / f"{uuid4().hex}.new"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(digests), encoding="utf-8")
            beside.replace(self.folder / _DIGESTS)
        except OSError:
            files.remove(beside)

    def _path(self, key: str, name: str) -> Path:
        return self.folder / key / name


def header(path: Path) -> Mapping[str, Any]:
    """What a safetensors file says of itself under "about"; empty for one that is damaged."""
    if not files.exists_as_file(path):
        return {}
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                return {}
            about = json.loads(json.loads(file.read(length))["__metadata__"]["about"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _is_entry(path: Path) -> bool:
    return _KEY.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def _entry(folder: Path) -> Entry | None:
    """The entry in a folder; None for one that is being removed."""
    try:
        found = list(_finished(folder))
    except OSError:
        return None
    size, used = sum(s.st_size for s in found), max((s.st_mtime for s in found), default=0.0)
    return Entry(folder, size, used)


def _finished(folder: Path) -> Iterator[os.stat_result]:
    """The files of an entry; those that a killed process left unfinished are removed."""
    for path in sorted(folder.iterdir()):
        status = path.stat()
        if path.suffix == _SUFFIX:
            yield status
        elif time.time() - status.st_mtime > _ABANDONED:
            files.remove(path)
