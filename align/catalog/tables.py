"""Parts as tables of plain values, as recipes and weights files have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from align.catalog.describe import tag_of
from align.core.term import TERM_OPTIONS, RewardTerm


def part_table(part: Any) -> dict[str, Any]:
    """The table of a part: its kind, and every option."""
    table: dict[str, Any] = plain(part)
    return table


def plain(value: Any) -> Any:
    """A value as TOML and JSON have it; attrs objects are tables, and what is None is left out."""
    if isinstance(value, RewardTerm):
        term = plain({name: getattr(value, name) for name in TERM_OPTIONS})
        first, *rest = part_table(value.part).items()
        return dict((first, *term.items(), *rest))
    if attrs.has(type(value)):
        fields = [field for field in attrs.fields(type(value)) if field.init]
        items = {field.alias or field.name: getattr(value, field.name) for field in fields}
        kind = tag_of(type(value))
        return ({"kind": kind} if kind else {}) | plain(items)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


def with_absolute_paths(part: Any) -> Any:
    """A part whose paths, in parts and tables inside of it too, do not depend on the folder.

    A path that leads nowhere stays as it is: it may be the name of something on a hub.
    """
    changes = dict[str, Any]()
    for field in attrs.fields(type(part)):
        value, name = getattr(part, field.name), field.alias or field.name
        if field.metadata.get("path"):
            if value and Path(value).exists():
                changes[name] = str(Path(value).absolute())
        elif attrs.has(type(value)):
            changes[name] = with_absolute_paths(value)
    return attrs.evolve(part, **changes) if changes else part


def missing_paths(part: Any) -> Iterator[tuple[str, str]]:
    """Names and values of absolute paths, in parts and tables inside too, that lead nowhere."""
    for name, value in _paths(part):
        if Path(value).is_absolute() and not Path(value).exists():
            yield name, value


def named_files(part: Any) -> Iterator[Path]:
    """Files and folders that options name by a path, in parts and tables inside too."""
    return (Path(value) for _, value in _paths(part) if Path(value).exists())


def _paths(part: Any) -> Iterator[tuple[str, str]]:
    """Names and values of options that are paths, in parts and tables inside too."""
    for field in attrs.fields(type(part)):
        value = getattr(part, field.name)
        if field.metadata.get("path"):
            if value:
                yield field.name, value
        elif attrs.has(type(value)):
            yield from _paths(value)
        elif isinstance(value, tuple):
            for item in value:
                if attrs.has(type(item)):
                    yield from _paths(item)
