"""From a file to a recipe whose parts go together, or to everything that is wrong with it."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import attrs

from align.catalog.registry import Catalog
from align.core.errors import RecipeError
from align.core.option import ConfigErrors
from align.recipe.assemble import read_recipe
from align.recipe.compatibility import check_compatibility
from align.recipe.override import apply_override, parse_override
from align.recipe.schema import Recipe
from align.recipe.source_map import Override, Source, syntax_line


@final
@attrs.frozen(eq=False)
class Loaded:
    """A recipe that can be built.

    Attributes:
        recipe: the recipe, with every value resolved.
        source: finds the place of a key, for what goes wrong later on.
    """

    recipe: Recipe
    source: Source


def load(path: str | Path, *, sets: Sequence[str] = (), catalog: Catalog) -> Loaded:
    """Read a recipe, apply overrides, convert it, and see whether its parts go together.

    Args:
        path: of the TOML file.
        sets: overrides, such as 'mode.steps=20'.
        catalog: the parts it may name.

    Raises:
        RecipeError: with one line for every problem of the first stage that found any.
    """
    text = _text(path)
    document = _parsed(path, text)
    document, overrides, refused = _overridden(document, sets, catalog)
    source = Source(str(path), text, overrides)
    try:
        recipe = read_recipe(document, catalog)
    except ConfigErrors as error:
        raise RecipeError("\n".join([*source.report(error.errors), *refused])) from error
    if refused:
        raise RecipeError("\n".join(refused))
    if errors := check_compatibility(recipe, document, catalog):
        raise RecipeError("\n".join(source.report(errors)))
    if not recipe.run.out:
        run = attrs.evolve(recipe.run, out=f"runs/{Path(path).stem}")
        recipe = attrs.evolve(recipe, run=run)
    return Loaded(recipe, source)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_bytes().decode()
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such file; {_nearby(Path(path))}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path}:{line}: toml: expected text in UTF-8") from error
    except OSError as error:
        raise RecipeError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def _nearby(path: Path) -> str:
    """The recipes in the folder that was asked."""
    if not path.parent.is_dir():
        return f"there is no folder '{path.parent}' either"
    names = sorted(other.name for other in path.parent.glob("*.toml"))
    if not names:
        return f"'{path.parent}' has no *.toml files"
    more = ", ..." if len(names) > 8 else ""
    return f"'{path.parent}' has " + ", ".join(names[:8]) + more


def _parsed(path: str | Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(syntax_line(str(path), text, error)) from error
    except RecursionError as error:
        raise RecipeError(f"{path}:1: toml: tables or arrays are nested too deeply") from error


def _overridden(
    document: dict[str, Any], sets: Sequence[str], catalog: Catalog
) -> tuple[dict[str, Any], tuple[Override, ...], list[str]]:
    """The document with the overrides that can be applied, and a line for each that cannot."""
    kinds = {kind for parts in catalog.parts.values() for kind in parts}
    document, overrides, refused = copy.deepcopy(document), list[Override](), list[str]()
    for text in sets:
        try:
            override = parse_override(text)
            apply_override(document, override, kinds)
        except ValueError as error:
            refused.append(f"--set {text}: {error}")
        else:
            overrides.append(override)
    return document, tuple(overrides), refused
