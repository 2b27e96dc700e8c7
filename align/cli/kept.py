"""What `align cache` says of what is kept from run to run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from align.io.cache import ROOM, Cache, Entry
from align.io.files import readable
from align.io.text import shortened

_PROMPT: Final = 60  # letters


def listed(cache: Cache) -> Iterator[str]:
    """Lines about all entries, the last used first."""
    entries = cache.entries()
    size = readable(sum(entry.size for entry in entries))
    limit = f"at most {readable(cache.room)} ({ROOM})" if cache.room else f"{ROOM} is 0: it is off"
    count = f"{len(entries)} set{'' if len(entries) == 1 else 's'} of unsteered samples"
    yield f"{cache.folder}: {count}, {size}; {limit}"
    for entry in entries:
        yield ""
        yield from _told(entry)


def references_lines(cache: Cache) -> Iterator[str]:
    """Lines about what metrics keep of references, if they keep anything."""
    if entries := cache.entries():
        size = readable(sum(entry.size for entry in entries))
        count = f"{len(entries)} set{'' if len(entries) == 1 else 's'} of references of metrics"
        yield ""
        yield f"{cache.folder}: {count}, {size}"


def answers_of_judges(folder: Path) -> Iterator[str]:
    """Lines about the answers of judges behind URLs, if any are kept."""
    found = files_of_judges(folder)
    if not found:
        return
    count = "damaged answers"
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{found[0].as_uri()}?mode=ro", uri=True)) as disk,
    ):
        (number,) = disk.execute("SELECT count(*) FROM answers").fetchone()
        count = f"{number} answer{'' if number == 1 else 's'}"
    size = readable(sum(file.stat().st_size for file in found))
    yield ""
    yield f"{folder}: {count} of judges, {size}"


def files_of_judges(folder: Path) -> list[Path]:
    """The files in which answers of judges are kept."""
    return sorted(folder.glob("answers.sqlite*"))


def _told(entry: Entry) -> Iterator[str]:
    """An entry: what it is, its scores, and whose it is."""
    headers = entry.headers()
    states = headers.pop("states", {})
    used = datetime.fromtimestamp(entry.used, UTC).strftime("%Y-%m-%d")
    if not states:
        place = entry.folder.name[:12]
        yield f"{place}: damaged or unfinished; {readable(entry.size)}, last used {used}"
        return
    prompt = shortened(str(states.get("prompt") or ""), _PROMPT)
    what = f"{states.get('count')} of '{states.get('model')}'" + (f", '{prompt}'" if prompt else "")
    yield f"{what}, {states.get('flow_steps')} steps, seed {states.get('seed')}"
    scores = sorted(str(header.get("reward", "?")) for header in headers.values())
    yield f"  scored by {', '.join(scores) or 'no reward'}; {readable(entry.size)}"
    yield f"  drawn {states.get('drawn')} for {states.get('recipe')}; last used {used}"
