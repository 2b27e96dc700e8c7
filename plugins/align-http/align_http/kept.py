"""Answers that are kept on the disk from run to run, by a digest of all that they depend on."""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Final, final

import attrs
from loguru import logger

from align.io.cache import room
from align.io.cache_dir import cache_dir

_NAME: Final = "answers.sqlite"
_BYTES: Final = 120  # an answer takes, more or less
_AT_ONCE: Final = 500  # keys in one look-up
_MEMORY: Final = 200_000  # answers that a process remembers


@final
@attrs.define(eq=False)
class Answers:
    """Numbers by digests: those of this process, and those on the disk where these are kept.

    Whatever goes wrong with the disk costs what is kept there, and never a run.
    """

    _disk: sqlite3.Connection | None = None
    _known: dict[bytes, float] = attrs.field(factory=dict, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    @classmethod
    def of_user(cls, kept: bool) -> Answers:
        """Those in the user's folder of caches, or of this process alone."""
        if not kept:
            return cls()
        try:
            most = room() // _BYTES
            disk = _opened(cache_dir("judges"), most) if most else None
        except (OSError, sqlite3.Error) as error:
            logger.info("answers of judges are not kept: {}", error)
            disk = None
        answers = cls(disk)
        if disk is not None:
            weakref.finalize(answers, disk.close)
        return answers

    def find(self, keys: Iterable[bytes]) -> dict[bytes, float]:
        """The answers that are known, by their keys."""
        wanted = list(dict.fromkeys(keys))
        with self._lock:
            found = {key: self._known[key] for key in wanted if key in self._known}
            rest = [key for key in wanted if key not in found]
            for start in range(0, len(rest) if self._disk else 0, _AT_ONCE):
                some = rest[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                rows = self._do(f"SELECT key, value FROM answers WHERE key IN ({marks})", some)
                found |= {bytes(key): float(value) for key, value in rows}
            self._remember(found)
        return found

    def keep(self, answers: dict[bytes, float]) -> None:
        """Keep answers by their keys."""
        with self._lock:
            self._remember(answers)
            for pair in answers.items():
                self._do("INSERT OR REPLACE INTO answers VALUES (?, ?)", pair)

    def _remember(self, answers: dict[bytes, float]) -> None:
        self._known |= answers
        while len(self._known) > _MEMORY:
            del self._known[next(iter(self._known))]

    def _do(self, command: str, values: Iterable[object]) -> list[tuple[bytes, float]]:
        if self._disk is None:
            return []
        try:
            return self._disk.execute(command, tuple(values)).fetchall()
        except sqlite3.Error as error:
            logger.info("answers of judges are not kept any longer: {}", error)
            self._disk.close()
            self._disk = None
            return []


def _opened(folder: Path, most: int) -> sqlite3.Connection:
    """The file of answers, of which the oldest are removed where there are too many."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _NAME
    try:
        return _prepared(path, most)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # such as a full disk
            raise
        logger.info("'{}' is damaged ({}), and made anew", path, error)
        path.unlink()
        return _prepared(path, most)


def _prepared(path: Path, most: int) -> sqlite3.Connection:
    disk = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        disk.execute("PRAGMA journal_mode = WAL")
        disk.execute("PRAGMA synchronous = OFF")  # a crash of the machine may cost the last ones
        disk.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, value REAL)")
        disk.execute(
            "DELETE FROM answers WHERE rowid <= (SELECT max(rowid) FROM answers) - ?", (most,)
        )
    except BaseException:
        disk.close()
        raise
    return disk
