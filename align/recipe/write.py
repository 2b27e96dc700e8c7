"""A recipe as TOML, with every value in it; reading it gives an equal recipe."""

from __future__ import annotations

from typing import Any

import attrs
import tomli_w

from align.catalog.describe import contract_of, tag_of
from align.catalog.tables import plain
from align.recipe.schema import Recipe


def to_toml(recipe: Recipe) -> str:
    """The whole recipe, comparison included, as text."""
    return tomli_w.dumps(to_tables(recipe))


def to_tables(recipe: Recipe) -> dict[str, Any]:
    """The whole recipe as TOML values; what is None is left out."""
    tables: dict[str, Any] = plain(recipe)
    return {name: value for name, value in tables.items() if value not in ([], {})}


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
            return inline(kind)
        return f'kind = "{kind}"' if kind else "see below"
    return "none" if default is None else inline(plain(default))


def inline(value: Any) -> str:
    """A value on one line, as TOML spells it."""
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, dict):
        items = (f"{key} = {inline(item)}" for key, item in value.items())
        return "{ " + ", ".join(items) + " }" if value else "{}"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").rstrip("\n")
