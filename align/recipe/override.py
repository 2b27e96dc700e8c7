"""`--set KEY=VALUE` and `--sweep KEY=[...]`: values that are given on the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from typing import Any

from align.catalog.describe import KEY, describe_value, dotted, parse_key
from align.core.option import Key
from align.io.paths import Typed
from align.io.text import number_of
from align.recipe.source_map import DEEPEST, Override, nested


def parse_override(text: str, *, swept: bool = False) -> Override:
    """Read `mode.steps=20` or `reward[0].weight=2`; raises ValueError with what to do.

    Args:
        text: as it was typed.
        swept: whether the values are those of a sweep, which then has the whole key as its own.
    """
    match = KEY.match(text)
    if not match or not text[match.end() :].lstrip().startswith("="):
        raise ValueError("expected KEY=VALUE, such as mode.steps=20 or reward[0].weight=2")
    key = parse_key(match.group())
    value = text[match.end() :].lstrip()[1:].strip()
    try:
        read = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError) as error:
        if re.fullmatch(r"[^\[\]{}\"',=]+", value):
            raise ValueError(
                f"{value} is not a TOML value; a string needs quotes: "
                f"--set '{match.group()}=\"{value}\"'"
            ) from error
        raise ValueError(f"expected a TOML value, got {value or 'nothing'}") from error
    if set(read) != {"value"}:
        raise ValueError("expected one TOML value")
    if len(key) > DEEPEST or nested(read, DEEPEST):
        raise ValueError(f"nested more than {DEEPEST} deep")
    given = typed(read["value"])
    if swept:
        return Override(f"--sweep {text}", ("sweep", match.group()), given)
    return Override(f"--set {text}", key, given)


def typed(value: Any) -> Any:
    """A value whose texts, as paths, start at the working folder."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(typed, value))
    return Typed(value) if isinstance(value, str) else value


def apply_override(
    document: dict[str, Any], override: Override, kinds: Collection[str] = ()
) -> None:
    """Set one value of the document in place; raises ValueError for a place that is not there.

    `kinds` are the names of parts: a string that is one of them stands for the table with that
    kind, in which an option can be set.
    """
    here: Any = document
    for depth, part in enumerate(override.key):
        _refuse_dead_end(here, override.key, depth)
        if depth == len(override.key) - 1:
            if not _is_kind_of(override.value, here, part):
                here[part] = override.value
            continue
        inner = here.setdefault(part, {}) if isinstance(here, dict) else here[part]
        if isinstance(inner, str) and inner in kinds and part != "kind":
            inner = here[part] = {"kind": inner}
        here = inner


def _is_kind_of(value: Any, here: Any, part: Any) -> bool:
    """Whether a value is the kind that a table at its place has already, whose options stay."""
    there = here[part] if not isinstance(here, dict) or part in here else None
    return isinstance(there, dict) and isinstance(value, str) and there.get("kind") == value


def _refuse_dead_end(container: Any, key: Key, depth: int) -> None:
    """Raise ValueError unless `key[depth]` can be set in `container`."""
    part, here = key[depth], dotted(key[:depth]) or "a recipe"
    if isinstance(part, int):
        if not isinstance(container, list):
            got = "is not there" if container == {} else f"is {describe_value(container)}"
            raise ValueError(f"{here} {got}, and [{part}] counts the elements of an array")
        if part >= len(container):
            count = number_of(len(container), "element")
            raise ValueError(f"{here} has {count}, counted from 0")
    elif isinstance(container, list):
        raise ValueError(f"{here} is an array; write {here}[0].{part} for its first element")
    elif not isinstance(container, dict):
        raise ValueError(f"{here} is {describe_value(container)}, not a table")
