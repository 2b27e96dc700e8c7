"""A recipe as TOML, with every value in it; reading it gives an equal recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from align.core.term import RewardTerm
from align.recipe.describe import contract_of, tag_of
from align.recipe.schema import Recipe


def to_toml(recipe: Recipe) -> str:
    """The whole recipe, comparison included, as text."""
    return "\n".join(_sections((), to_tables(recipe))).lstrip("\n") + "\n"


def to_tables(recipe: Recipe) -> dict[str, Any]:
    """The whole recipe as TOML values; what is None is left out."""
    tables: dict[str, Any] = _plain(recipe)
    return {name: value for name, value in tables.items() if value != []}


def part_table(part: Any) -> dict[str, Any]:
    """The table of a part: its kind, and every option."""
    table: dict[str, Any] = _plain(part)
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, RewardTerm):
        names = [field.name for field in attrs.fields(RewardTerm) if field.name != "part"]
        own = _plain({name: getattr(value, name) for name in names})
        first, *rest = part_table(value.part).items()
        return dict((first, *own.items(), *rest))
    if attrs.has(type(value)):
        fields = [field for field in attrs.fields(type(value)) if field.init]
        items = {field.alias or field.name: getattr(value, field.name) for field in fields}
        kind = tag_of(type(value))
        return ({"kind": kind} if kind else {}) | _plain(items)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _sections(key: tuple[str, ...], table: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a table: what fits on one line first, as what follows a header belongs to it."""
    for name, value in table.items():
        if not isinstance(value, dict) and not _is_tables(value):
            yield f"{_name(name)} = {_inline(value)}"
    for name, value in table.items():
        header = ".".join(map(_name, (*key, name)))
        if isinstance(value, dict):
            yield from ("", f"[{header}]", *_sections((*key, name), value))
        elif _is_tables(value):
            for item in value:
                yield from ("", f"[[{header}]]", *_sections((*key, name), item))


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _inline(name)


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON and TOML escape alike, but for the one control character that JSON lets pass.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, dict):
        items = ", ".join(f"{_name(key)} = {_inline(item)}" for key, item in value.items())
        return f"{{ {items} }}" if items else "{}"
    return repr(value)


def default_text(field: attrs.Attribute[Any]) -> str:
    """The default of an option as TOML spells it."""
    default: Any = field.default
    if default is attrs.NOTHING:
        return "required"
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        if default.takes_self:
            return str(field.metadata["shown"])
        default = default.factory()
    if attrs.has(type(default)):
        kind = tag_of(type(default))
        if kind and contract_of(type(default)):
            return _inline(kind)
        return f'kind = "{kind}"' if kind else "see below"
    return "none" if default is None else _inline(_plain(default))
