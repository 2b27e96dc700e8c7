"""`--set KEY=VALUE`: one value of a recipe, given on the command line."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

from align.core.option import Key
from align.recipe.describe import describe_value, dotted
from align.recipe.source_map import Override

_PART: Final = r'(?:[A-Za-z0-9_-]+|"[^"]*")(?:\[\d+\])*'
_KEY: Final = re.compile(rf"{_PART}(?:\.{_PART})*")
_TOKEN: Final = re.compile(r'\[(\d+)\]|"([^"]*)"|([A-Za-z0-9_-]+)')


def parse_override(text: str) -> Override:
    """Read `mode.steps=20` or `reward[0].weight=2`; raises ValueError with what to do."""
    match = _KEY.match(text)
    if not match or not text[match.end() :].lstrip().startswith("="):
        raise ValueError("expected KEY=VALUE, such as mode.steps=20 or reward[0].weight=2")
    key: Key = tuple(
        int(index) if index else quoted or bare
        for index, quoted, bare in _TOKEN.findall(match.group())
    )
    value = text[match.end() :].lstrip()[1:].strip()
    try:
        read = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError as error:
        if re.fullmatch(r"[^\[\]{}\"',=]+", value):
            raise ValueError(
                f"{value} is not a TOML value; a string needs quotes: "
                f"--set '{match.group()}=\"{value}\"'"
            ) from error
        raise ValueError(f"expected a TOML value, got {value or 'nothing'}") from error
    if set(read) != {"value"}:
        raise ValueError("expected one TOML value")
    return Override(text, key, read["value"])


def apply_override(document: dict[str, Any], override: Override) -> None:
    """Set one value of the document in place; raises ValueError for a place that is not there."""
    place: Any = document
    for depth, part in enumerate(override.key):
        _refuse_dead_end(place, override.key, depth)
        if depth == len(override.key) - 1:
            place[part] = override.value
        else:
            place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]


def _refuse_dead_end(place: Any, key: Key, depth: int) -> None:
    """Raise ValueError unless `key[depth]` can be set in `place`."""
    part, here = key[depth], dotted(key[:depth]) or "a recipe"
    if isinstance(part, int):
        if not isinstance(place, list):
            got = "is not there" if place == {} else f"is {describe_value(place)}"
            raise ValueError(f"{here} {got}, and [{part}] counts the elements of an array")
        if part >= len(place):
            raise ValueError(f"{here} has {len(place)} elements, counted from 0")
    elif isinstance(place, list):
        raise ValueError(f"{here} is an array; write {here}[0].{part} for its first element")
    elif not isinstance(place, dict):
        raise ValueError(f"{here} is {describe_value(place)}, not a table")
