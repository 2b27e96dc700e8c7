"""Where things are: problems with their key, and the line of a key.

tomllib reads values without their lines. What it has read is well formed, so that a scan of the
text, which knows keys, brackets and strings alone, finds the line of every key in one pass.
"""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, final

import attrs

from align.catalog.describe import dotted
from align.core.option import ConfigError, Key
from align.recipe.sweep import Sweep

DEEPEST: Final = 64
"""Parts of the longest key: a recipe that is nested deeper is a mistake."""
_MOST_LINES: Final = 100
_LONGEST: Final = 1000

_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_GAP: Final = re.compile(r"(?:[ \t\r\n,]+|#[^\n]*)*")
_NOTHING: Final = re.compile(r"")
_PART: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_FLAT = r"""\[[^\[\]{}"'#]*\]"""
# An array without arrays, tables and strings in it; and several in a row, in another array.
_NUMBERS: Final = re.compile(_FLAT)
_ROWS: Final = re.compile(rf"{_FLAT}(?:[ \t\r\n]*,[ \t\r\n]*{_FLAT})*")
_DOT: Final = re.compile(r"[ \t]*\.?[ \t]*")
_EQUALS: Final = re.compile(r"[ \t]*=[ \t]*")
_OPENING: Final = re.compile(r"\[\[?[ \t]*")
_CLOSING: Final = re.compile(r"[ \t]*\]\]?")
_SIMPLE: Final = re.compile(
    r'''"""[^"\\]*(?:(?:\\.|"{1,2}(?!"))[^"\\]*)*"{3,5}'''
    r"""|'''[^']*(?:'{1,2}(?!')[^']*)*'{3,5}"""
    r"""|"[^"\\]*(?:\\.[^"\\]*)*"|'[^']*'|[^,\]}\n#]+""",
    re.DOTALL,
)
_PLAIN: Final = (
    ("Invalid value", "expected a value, such as 'text', 4, 0.5, true, [1, 2] or { key = 1 }"),
    ("Invalid statement", "expected a key, a [section] or a [[section]]"),
    ("Invalid initial character for a key part", "expected a key"),
    ("Invalid", "unexpected"),
)


_DOTS: Final = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*)""" f"{{{DEEPEST}}}"
)
_DIGITS: Final = re.compile(r"(?<![\w.])[0-9][0-9_]{4000,}")
_ESCAPES: Final = re.compile("Unescaped|hex value|code point|scalar value")
# A backslash that TOML reads as a tab or a line break, in what looks like a path.
DRIVE: Final = re.compile(r'''"[A-Za-z]:\\[bfnrt][^" \n]*"''')
BACKSLASH: Final = (
    r"in double quotes \ begins an escape: write a path in single quotes, 'C:\data', or with /"
)


@final
@attrs.frozen
class Override:
    """One `--set` or `--sweep`: as it was typed, the key that it sets, and the value."""

    typed: str
    key: Key
    value: Any


@final
@attrs.frozen
class Source:
    """Where a recipe's values come from: a file, the overrides given beside it, and its sweep.

    A recipe that is no file has no text, and so no lines.
    """

    path: str
    text: str | None
    overrides: tuple[Override, ...] = ()
    sweep: Sweep = Sweep()

    def where(self, key: Key) -> str:
        """'recipe.toml:12', or '--set mode.steps=20' for what was set there."""
        key = self.sweep.located(ConfigError(key, "")).key
        override = self._override(key)
        return override.typed if override else self._line(line_of(self.text or "", key))

    def report(self, errors: Iterable[ConfigError]) -> list[str]:
        """One line for each problem, in the order of the file; overrides come last."""
        errors, rows = tuple(map(self.sweep.located, errors)), set()
        lines = _lines_of(self.text or "", (error.key for error in errors))
        for error in errors:
            shown, override = dotted(error.key), self._override(error.key)
            if override and override.key == error.key:
                shown = ""
            line = math.inf if override else lines[error.key]
            place = override.typed if override else self._line(lines[error.key])
            rows.add((line, shown, one_line(": ".join(filter(None, (place, shown, error.text))))))
        texts = [text for _, _, text in sorted(rows)]
        if len(texts) > _MOST_LINES:
            more = len(texts) - _MOST_LINES
            return [*texts[:_MOST_LINES], f"{self.path}: and {more} more; mend these first"]
        return texts

    def _line(self, line: int) -> str:
        """A line of the file; a recipe that is no file has none."""
        return self.path if self.text is None else f"{self.path}:{line}"

    def _override(self, key: Key) -> Override | None:
        """The last override that set `key` or a table around it, or made the table at `key`."""
        setting = [o for o in self.overrides if key[: len(o.key)] == o.key]
        if not setting and self.overrides and not self._has(key):
            setting = [o for o in self.overrides if o.key[: len(key)] == key]
        return setting[-1] if setting else None

    def _has(self, key: Key) -> bool:
        """Whether the file itself holds `key`; what is no file is taken to do so."""
        if self.text is None:
            return True
        return holds(tomllib.loads(self.text), key)


def holds(table: Any, key: Key) -> bool:
    """Whether a document has something at `key`."""
    for part in key:
        inside = range(len(table)) if isinstance(table, list) else table
        if not isinstance(inside, dict | range) or part not in inside:
            return False
        table = table[part]
    return True


def one_line(text: str) -> str:
    """A message that quotes a user's text, without the line breaks in it, and cut if it is long."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 200]} [...] {text[-150:]}"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def line_of(text: str, key: Key) -> int:
    """Line, from 1, at which `key` begins; for a key that is missing, that of its table."""
    return _lines_of(text, [key])[key]


def _lines_of(text: str, keys: Iterable[Key]) -> Mapping[Key, int]:
    """The line of each key, in a text that tomllib has read."""
    wanted = set(keys)
    scan = _Scan(text, {key[:end] for key in wanted for end in range(len(key))})
    scan.document()
    lines = scan.lines
    return {
        key: next((lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in lines), 1)
        for key in wanted
    }


def deepest(text: str) -> tuple[Key, int]:
    """The first key of a text that lies deeper than `DEEPEST`, and its line; else (), 1.

    The text may be more than tomllib can read: what comes before that key is TOML.
    """
    scan = _Scan(text, None)
    try:
        scan.document()
    except _TooDeepError as error:
        return error.args
    except (AttributeError, IndexError):
        pass  # a mistake that comes before it
    return (), 1


def too_deep(text: str) -> tuple[Key, int] | None:
    """The first key with so many dots that tomllib takes long to read it; None if there is none."""
    return deepest(text) if _DOTS.search(text) else None


def nested(value: Any, depth: int) -> bool:
    """Whether tables and arrays lie in each other more than `depth` times."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True


@final
class _TooDeepError(Exception):
    """A key has more than `DEEPEST` parts."""


@final
class _Scan:
    """One pass over a TOML text, which notes where keys begin.

    `wanted` are tables and arrays whose keys are noted; others may be passed over.
    """

    def __init__(self, text: str, wanted: Collection[Key] | None) -> None:
        self.text, self.place, self.line, self.counted = text, 0, 1, 0
        self.wanted = wanted
        self.lines = dict[Key, int]()
        self.last = dict[Key, int]()  # index of the last table of each array of tables

    def document(self) -> None:
        table: Key = ()
        self._to(_BLANK)
        while self.place < len(self.text):
            if self.text[self.place] == "[":
                table = self._header()
            else:
                self._value(self._key(table))
            self._to(_BLANK)

    def _to(self, pattern: re.Pattern[str]) -> str:
        """Go to the end of what matches here, and return it."""
        match = pattern.match(self.text, self.place)
        assert match is not None
        self.place = match.end()
        return match[0]

    def _note(self, key: Key) -> None:
        self.line += self.text.count("\n", self.counted, self.place)
        self.counted = self.place
        self.lines.setdefault(key, self.line)
        if len(key) > DEEPEST:
            raise _TooDeepError(key, self.line)

    def _unwanted(self, key: Key) -> bool:
        return self.wanted is not None and key not in self.wanted

    def _parts(self) -> list[str]:
        """The parts of a dotted key; what follows them is passed too."""
        found = [self._to(_PART)]
        while self._to(_DOT).strip():
            found.append(self._to(_PART))
        return [_plain_part(part) for part in found]

    def _key(self, table: Key) -> Key:
        """A key with its equals sign; every part is noted."""
        self.line += self.text.count("\n", self.counted, self.place)
        self.counted = self.place
        for part in self._parts():
            table = (*table, part)
            self._note(table)
        self._to(_EQUALS)
        return table

    def _header(self) -> Key:
        begin = self.place
        brackets = len(self._to(_OPENING).strip(" \t"))
        parts, table = self._parts(), Key()
        after, self.place = self.place, begin
        for number, part in enumerate(parts, 1):
            table = (*table, part)
            self._note(table)
            if number == len(parts) and brackets == 2:
                self.last[table] = self.last.get(table, -1) + 1
            if table in self.last:
                table = (*table, self.last[table])
                self._note(table)
        self.place = after
        self._to(_CLOSING)
        return table

    def _value(self, key: Key) -> None:
        """One value, and all that lies in it."""
        around = list[tuple[Key, Iterator[int] | None]]()
        while True:
            opening = self.text[self.place]
            pattern = _ROWS if around and self._unwanted(around[-1][0]) else _NUMBERS
            passed = opening == "[" and self._unwanted(key)
            if passed and (rows := pattern.match(self.text, self.place)):
                self.place = rows.end()
            elif opening in "[{":
                around.append((key, itertools.count() if opening == "[" else None))
                self.place += 1
            else:
                self._to(_SIMPLE)
            self._to(_GAP)
            while around and self.text[self.place] in "]}":
                around.pop()
                self.place += 1
                self._to(_GAP if around else _NOTHING)
            if not around:
                return
            outer, numbers = around[-1]
            if numbers is None:
                key = self._key(outer)
            else:
                key = (*outer, next(numbers))
                self._note(key)


def _plain_part(part: str) -> str:
    """A part of a key without its quotes."""
    if part[0] == "'":
        return part[1:-1]
    if "\\" in part:
        return str(tomllib.loads(f"key = {part}")["key"])
    return part.strip('"')


def syntax_line(path: str, text: str, error: ValueError) -> str:
    """One line about a file that is not TOML."""
    message, _, place = str(error).partition(" (at ")
    match = re.match(r"line (\d+)", place)
    line = int(match[1]) if match else text.rstrip().count("\n") + 1
    if digits := not isinstance(error, tomllib.TOMLDecodeError) and _DIGITS.search(text):
        line = text.count("\n", 0, digits.start()) + 1
        message = f"an integer of {len(digits[0]):,} digits, which 64 bits do not hold"
    for theirs, ours in _PLAIN:
        message = message.replace(theirs, ours)
    if _ESCAPES.search(message) and "\\" in text.split("\n")[line - 1]:
        message = f"{message}; {BACKSLASH}"
    return f"{path}:{line}: toml: {message[0].lower()}{message[1:]}"
