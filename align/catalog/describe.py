"""Values and types in the words of someone who writes TOML."""

from __future__ import annotations

import datetime
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Union, get_args, get_origin

from align.catalog.registry import CONTRACTS
from align.core.option import Key
from align.io.text import number_of

_SINGULAR = ((bool, "true or false"), (int, "an integer"), (float, "a number"), (str, "a string"))
_PLURAL = ((bool, "booleans"), (int, "integers"), (float, "numbers"), (str, "strings"))


_PART: Final = r'(?:[A-Za-z0-9_-]+|"[^"]*")(?:\[\d+\])*'
KEY: Final = re.compile(rf"{_PART}(?:\.{_PART})*")
"""A key as `dotted` writes it."""
_TOKEN: Final = re.compile(r'\[(\d+)\]|"([^"]*)"|([A-Za-z0-9_-]+)')


def parse_key(text: str) -> Key:
    """Read `mode.steps` or `reward[0].weight`; raises ValueError for what is no key."""
    if not KEY.fullmatch(text):
        raise ValueError("expected a key, such as mode.steps or reward[0].weight")
    return tuple(
        int(index) if index else quoted or bare for index, quoted, bare in _TOKEN.findall(text)
    )


def dotted(key: Key) -> str:
    """A key as a recipe's author would point at it: reward[0].weight."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'
            text += f".{bare}" if text else bare
    return text


def describe_value(value: object) -> str:
    """A value as TOML spells it, with its type in plain English."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string {value!r}" if len(value) <= 60 else f"the string {value[:57] + '...'!r}"
    if isinstance(value, int):
        return f"the integer {value}" if abs(value) < 10**20 else "an integer of many digits"
    if isinstance(value, float):
        return f"the number {value!r}"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        return "an array"
    assert isinstance(value, (datetime.date, datetime.time)), value
    return f"the date or time {value.isoformat()}"


def expected(tp: Any) -> str:
    """What values of a type are called: 'an integer', 'an array of tables'."""
    for simple, name in _SINGULAR:
        if tp is simple:
            return name
    if get_origin(tp) is Literal:
        options = [literal(value) for value in get_args(tp)]
        return options[0] if len(options) == 1 else "one of " + ", ".join(options)
    if is_union(tp):
        return " or ".join(dict.fromkeys(map(expected, members(tp))))
    if get_origin(tp) is tuple:
        items = get_args(tp)
        if len(items) == 2 and items[1] is Ellipsis:
            plural = [name for simple, name in _PLURAL if items[0] is simple]
            return "an array of " + (plural[0] if plural else _many(items[0]))
        return f"an array of {number_of(len(items), 'value')}"
    return "a string or a table" if contract_of(tp) else "a table"


def _many(tp: Any) -> str:
    if get_origin(tp) is Literal:
        return ", ".join(literal(value) for value in get_args(tp))
    return "arrays" if get_origin(tp) is tuple else "tables"


def literal(value: object) -> str:
    """One of the values of a Literal type."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def is_union(tp: Any) -> bool:
    """Whether a type is `X | Y` in either spelling."""
    return get_origin(tp) in (Union, types.UnionType)


def members(tp: Any) -> Sequence[Any]:
    """The members of a union but None, for which TOML has no word: the key is left out."""
    return [member for member in get_args(tp) if member is not type(None)]


def contract_of(tp: Any) -> str | None:
    """'model', 'sampler', ... for a type of parts; None for any other type."""
    cls = get_origin(tp) or tp
    if not isinstance(cls, type):
        return None
    return next((name for name, abc in CONTRACTS.items() if issubclass(cls, abc)), None)


def tag_of(tp: Any) -> str | None:
    """The `kind` of a class whose tables say it, though no contract covers them."""
    kind = getattr(tp, "kind", None) if isinstance(tp, type) else None
    return kind if isinstance(kind, str) else None
