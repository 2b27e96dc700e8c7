"""Where things are: problems with their key, and the line of a key.

tomllib reads values without their lines. A prefix of a TOML file that ends between two statements
is a TOML file, so the line of a key is that of the first prefix which has it.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Final, final

import attrs

from align.core.option import ConfigError, Key
from align.recipe.describe import dotted

# What may be missing where a prefix stops inside an array or a string of several lines.
_CLOSERS: Final = ("", "]", "]]", "}]", "]}", "}]}]", '"""', "'''")
_PLAIN: Final = (
    ("Invalid value", "expected a value, such as 'text', 4, 0.5, true, [1, 2] or { key = 1 }"),
    ("Invalid statement", "expected a key, a [section] or a [[section]]"),
    ("Invalid initial character for a key part", "expected a key"),
    ("Invalid", "unexpected"),
)


@final
@attrs.frozen
class Override:
    """One `--set`: the text as it was typed, the key it sets, and the value."""

    text: str
    key: Key
    value: Any


@final
@attrs.frozen
class Source:
    """Where a recipe's values come from: a file, and the overrides given beside it."""

    path: str
    text: str
    overrides: tuple[Override, ...] = ()

    def where(self, key: Key) -> str:
        """'recipe.toml:12', or '--set mode.steps=20' for what was set there."""
        override = self._override(key)
        return f"--set {override.text}" if override else f"{self.path}:{line_of(self.text, key)}"

    def report(self, errors: Iterable[ConfigError]) -> list[str]:
        """One line for each problem, in the order of the file; overrides come last."""
        rows = set()
        for error in errors:
            shown, override = dotted(error.key), self._override(error.key)
            if override and override.key == error.key:
                shown = ""
            line = math.inf if override else line_of(self.text, error.key)
            place = f"--set {override.text}" if override else f"{self.path}:{line}"
            rows.add((line, shown, ": ".join(filter(None, (place, shown, error.text)))))
        return [text for _, _, text in sorted(rows)]

    def _override(self, key: Key) -> Override | None:
        """The last override that set `key`, or a table around it."""
        setting = [o for o in self.overrides if key[: len(o.key)] == o.key]
        return setting[-1] if setting else None


def line_of(text: str, key: Key) -> int:
    """Line, from 1, at which `key` begins; for a key that is missing, that of its table."""
    # Not splitlines: a string may hold what Python, but not TOML, takes for the end of a line.
    lines = [line + "\n" for line in text.split("\n")]
    key = key[: _depth(tomllib.loads(text), key)]
    for end in range(len(lines) + 1):
        for closer in _CLOSERS:
            try:
                prefix = tomllib.loads("".join(lines[:end]) + closer)
            except tomllib.TOMLDecodeError:
                continue
            if _depth(prefix, key) == len(key):
                return max(end, 1)
            break
    return 1


def _depth(document: Any, key: Key) -> int:
    """How many parts of `key`, from the left, are in the document."""
    for depth, part in enumerate(key):
        if isinstance(document, Mapping) and part in document:
            document = document[str(part)]
        elif isinstance(document, list) and isinstance(part, int) and part < len(document):
            document = document[part]
        else:
            return depth
    return len(key)


def syntax_line(path: str, text: str, error: tomllib.TOMLDecodeError) -> str:
    """One line about a file that is not TOML."""
    message, _, place = str(error).partition(" (at ")
    for theirs, ours in _PLAIN:
        message = message.replace(theirs, ours)
    match = re.match(r"line (\d+)", place)
    line = match[1] if match else len(text.rstrip().split("\n"))
    return f"{path}:{line}: toml: {message[0].lower()}{message[1:]}"
