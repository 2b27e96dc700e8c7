"""Text of a user where something else would be read into it: terminals, Markdown, plots, names.

Names of arms and rewards, classes and prompts are any text: markup, formulas, lines, any script.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

_MARKS: Final = re.compile(r"[\\`*\[\]<>|~$&]|(?<!\w)_|_(?!\w)")
_HTML: Final = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
# Letters, and marks that belong to them, are shown; Cf may turn the direction of what follows.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS: Final = frozenset({"\u200c", "\u200d"})  # which some scripts and emoji are spelled with


def visible(text: str) -> str:
    """The text in one line, with letters that cannot be seen written as escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter
        if letter in _JOINERS or unicodedata.category(letter) not in _HIDDEN
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def visible_lines(text: str) -> str:
    """The text with its line breaks, and otherwise as `visible`."""
    return "\n".join(map(visible, text.split("\n")))


def number_of(count: int, noun: str) -> str:
    """A count with what is counted, which gets an "s" unless it is one."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Iterable[str]) -> str:
    """Names one after the other, as a sentence has them; in quotes where they hold commas."""
    names = list(names)
    quote = "'" if any("," in name for name in names) else ""
    return ", ".join(f"{quote}{name}{quote}" for name in names)


def shortened(text: str, letters: int) -> str:
    """The text in one line with at most so many letters: begin and end of a longer one."""
    text = visible(text)
    if len(text) <= letters:
        return text
    end = letters // 3
    return f"{text[: letters - end - 1]}…{text[len(text) - end :]}"


def first_lines(lines: Sequence[str], most: int) -> list[str]:
    """The first lines, and one that counts the others where there are more."""
    more = len(lines) - most
    return [*lines[:most], *([f"and {more} more"] if more > 0 else [])]


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """A table of comma-separated values, whose lines end as those of other files here."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def markdown(text: str) -> str:
    """The text in one line as Markdown shows it letter by letter, also in a cell of a table."""
    return _MARKS.sub(lambda mark: _HTML.get(mark[0], "\\" + mark[0]), visible(text))


def code(text: str) -> str:
    """The text in one line as Markdown shows code."""
    text = visible(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    return f"`{text}`" if not longest else f"{'`' * (longest + 1)} {text} {'`' * (longest + 1)}"


def fence(text: str) -> str:
    """A row of backticks, longer than any in the text, to stand around it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)


def cut_to_bytes(name: str, size: int) -> str:
    """The beginning of a name that takes at most so many bytes in UTF-8."""
    return name.encode()[:size].decode(errors="ignore")
