"""Files of prompts, one for each sample: lines of text, JSON objects, or rows of a table."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias, final

import attrs

from align.core.errors import PartError
from align.io.files import digest, read_text
from align.io.text import number_of

COLUMN: Final = "prompt"
_CURE: Final = "name a file with a prompt a line"
# Halves of letters, which JSON can spell and nothing can write.
_LONE: Final = re.compile("[\ud800-\udfff]")

Numbered: TypeAlias = Iterator[tuple[int, str | None]]


@final
@attrs.frozen
class PromptFile:
    """The prompts of a file, of which sample i has number i.

    Attributes:
        path: of the file.
        prompts: as they stand there; braces in them mean nothing.
        digest: its SHA-256, in hexadecimal.
    """

    path: str
    prompts: tuple[str, ...]
    digest: str

    @classmethod
    def read(cls, path: str) -> PromptFile:
        """The prompts of a .txt, .jsonl or .csv file.

        Raises:
            PartError: it cannot be read, or one of its lines holds no prompt.
        """
        reader = _READERS.get(Path(path).suffix.lower())
        if reader is None:
            raise PartError(f"'{path}' is none of {', '.join(_READERS)}; {_CURE}")
        text = read_text(Path(path), _CURE).removeprefix("\ufeff")
        prompts = list[str]()
        for number, prompt in reader(path, text):
            if prompt is None or not prompt.strip():
                raise PartError(f"'{path}:{number}' holds no prompt; write one, or take it out")
            if "\0" in prompt or _LONE.search(prompt):
                raise PartError(f"'{path}:{number}' holds a letter that is no text; take it out")
            prompts.append(prompt)
        if not prompts:
            raise PartError(f"'{path}' holds no prompt; write one a line")
        return cls(path, tuple(prompts), digest(Path(path)))

    def require(self, samples: int) -> None:
        """Raise PartError unless each of so many samples has a prompt of its own."""
        if (count := len(self.prompts)) < samples:
            has = number_of(count, "prompt")
            raise PartError(
                f"'{self.path}' has {has}, and run.samples is {samples}: sample i has line i; add"
                f" lines, or set run.samples to {count}"
            )


def _lines(path: str, text: str) -> Numbered:
    del path
    yield from enumerate(text.rstrip().split("\n") if text.strip() else (), 1)


def _objects(path: str, text: str) -> Numbered:
    for number, line in _lines(path, text):
        try:
            value = json.loads(line or "", object_pairs_hook=_once)
        except ValueError as error:
            raise PartError(f"'{path}:{number}' is no JSON ({error}); {_CURE}") from error
        prompt = value.get(COLUMN) if isinstance(value, dict) else value
        if not isinstance(prompt, str):
            wanted = f'expected an object with a text "{COLUMN}"'
            raise PartError(f"'{path}:{number}': {wanted}; {_CURE}")
        yield number, prompt


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON; raises ValueError for one that has a key twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"'{twice}' stands twice in it")
    return value


def _rows(path: str, text: str) -> Numbered:
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if text and COLUMN not in (names := table.fieldnames or ()):
            known = ", ".join(f"'{name}'" for name in names)
            raise PartError(
                f"'{path}:1' has no column '{COLUMN}', only {known}; give the column of the prompts"
                " that name"
            )
        if (count := list(table.fieldnames or ()).count(COLUMN)) > 1:
            raise PartError(f"'{path}:1' has {count} columns '{COLUMN}'; leave one of that name")
        for row in table:
            if any(row.get(None, ())):
                raise PartError(
                    f"'{path}:{table.line_num}' has more cells than line 1 has names; put a text"
                    ' with a comma in "quotes"'
                )
            yield table.line_num, row[COLUMN]
    except csv.Error as error:
        raise PartError(f"'{path}:{table.line_num}' is no table ({error}); {_CURE}") from error


_READERS: Final[Mapping[str, Callable[[str, str], Numbered]]] = MappingProxyType(
    {".txt": _lines, ".jsonl": _objects, ".csv": _rows}
)
