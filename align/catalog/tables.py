"""Parts as tables of plain values, as recipes and weights files have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from align.catalog.describe import tag_of
from align.core.dataset import DatasetSpec
from align.core.term import TERM_OPTIONS, RewardTerm
from align.io import paths
from align.io.python_code import files_of


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
        if use := field.metadata.get("path"):
            if value and paths.starts_beside(value, use) and Path(value).exists():
                changes[name] = str(Path(value).absolute())
        elif attrs.has(type(value)):
            changes[name] = with_absolute_paths(value)
    return attrs.evolve(part, **changes) if changes else part


def missing_paths(part: Any) -> Iterator[tuple[str, str]]:
    """Names and values of absolute paths, in parts and tables inside too, that lead nowhere."""
    for name, value, _ in _paths(part):
        if Path(value).is_absolute() and not Path(value).exists():
            yield name, value


def named_files(part: Any) -> Iterator[Path]:
    """Files and folders that options name by a path, in parts and tables inside too."""
    uses = ((Path(value), use) for _, value, use in _paths(part))
    return (path for path, use in uses if use not in ("kept", "written") and path.exists())


def inputs(part: Any) -> dict[str, tuple[Path, ...]]:
    """What a part, or a whole recipe, reads of the user's: files, folders and patterns.

    Returns:
        What options name, as they spell it; for code the files that it consists of, for others
        none. What is not there is left out.
    """
    found = dict[str, tuple[Path, ...]]()
    for _, value, use in _paths(part):
        if use == "code" or value.endswith(".py"):
            if own := files_of(value):
                found[value] = own
            elif Path(value).is_file():
                found[value] = (Path(value),)
        elif use not in ("kept", "written") and paths.leads(value):
            found[value] = ()
    return found


def kept_folders(part: Any) -> list[str]:
    """Folders that a part, or a whole recipe, fills or uses, and that are no part of it."""
    return [value for _, value, use in _paths(part) if use == "kept"]


def _paths(part: Any) -> Iterator[tuple[str, str, Any]]:
    """Names, values and uses of options that are paths, in parts and tables inside too.

    In tables of another part's options, which nobody here knows, absolute paths that lead
    somewhere are such.
    """
    for field in attrs.fields(type(part)):
        value, use = getattr(part, field.name), field.metadata.get("path")
        if use:
            if value:
                # Latents without the rows that they were made of are the data themselves.
                alone = isinstance(part, DatasetSpec) and part.domain is None
                yield field.name, value, True if alone else use
        elif field.init:
            for text, inner in _inside(value):
                if inner is not None:
                    yield from _paths(inner)
                elif Path(text).is_absolute() and paths.leads(text):
                    yield field.name, text, True


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """Texts in tables, with None; and, with an empty text, objects of attrs."""
    if attrs.has(type(value)):
        yield "", value
    elif isinstance(value, Mapping):
        for item in value.values():
            if isinstance(item, str):
                yield item, None
            else:
                yield from _inside(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from _inside(item)
