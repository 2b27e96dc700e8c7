"""From a file to a recipe whose parts go together, or to everything that is wrong with it."""

from __future__ import annotations

import codecs
import copy
import errno
import stat
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import attrs

from align.catalog.describe import dotted
from align.catalog.registry import Catalog
from align.catalog.shipped import resolved
from align.catalog.tables import plain
from align.core.attribution import seen
from align.core.errors import RecipeError
from align.core.option import ConfigError, ConfigErrors, Key
from align.io.files import readable
from align.io.paths import beside
from align.recipe.assemble import read_recipe
from align.recipe.compatibility import check_compatibility
from align.recipe.inputs import changed_files
from align.recipe.override import apply_override, parse_override
from align.recipe.schema import Recipe
from align.recipe.source_map import (
    BACKSLASH,
    DEEPEST,
    DRIVE,
    Override,
    Source,
    deepest,
    nested,
    one_line,
    syntax_line,
    too_deep,
)
from align.recipe.sweep import expanded

_LARGEST: Final = 1 << 25  # bytes of a recipe


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


def load(
    path: str | Path | Mapping[str, Any],
    *,
    sets: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    catalog: Catalog,
) -> Loaded:
    """Read a recipe, apply overrides, convert it, and see whether its parts go together.

    Args:
        path: of the TOML file, or the @name of a recipe that comes with align; or the recipe
            itself, as tables, in which parts may be objects.
        sets: overrides, such as 'mode.steps=20'.
        sweeps: what is varied, such as 'mode.steps=[10, 20]'.
        catalog: the parts it may name.

    Raises:
        RecipeError: with one line for every problem of the first stage that found any.
    """
    text = None
    if isinstance(path, Mapping):
        document, path = _given(path), "recipe"
    else:
        path = resolved(path)
        text, document = read_document(path)
    document, overrides, refused = _overridden(document, sets, sweeps, catalog)
    document, sweep = expanded(document)
    source = Source(str(path), text, overrides, sweep)
    with beside(None if text is None else Path(path).parent):
        try:
            recipe = read_recipe(document, catalog)
        except ConfigErrors as error:
            errors = [*error.errors, *sweep.errors]
            raise RecipeError("\n".join([*source.report(errors), *refused])) from error
        if refused or sweep.errors:
            raise RecipeError("\n".join([*source.report(sweep.errors), *refused]))
        errors = [*check_compatibility(recipe, document, catalog), *changed_files(recipe)]
        if errors:
            raise RecipeError("\n".join(source.report(errors)))
    if not recipe.run.out:
        run = attrs.evolve(recipe.run, out=f"runs/{Path(path).stem}")
        recipe = attrs.evolve(recipe, run=run)
    return Loaded(recipe, source)


def read_document(path: str | Path) -> tuple[str, dict[str, Any]]:
    """The text of a TOML file, and what it says; raises RecipeError, with the line."""
    text = _text(path)
    return text, _parsed(path, text)


def _given(document: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of Python as TOML has them; raises RecipeError for what TOML has no word for."""
    errors = list[ConfigError]()

    def plain_at(key: Key, value: Any) -> Any:
        if attrs.has(type(value)):
            value = plain(value)
        if isinstance(value, Mapping):
            return {
                str(name): plain_at((*key, str(name)), item)
                for name, item in value.items()
                if item is not None
            }
        if isinstance(value, list | tuple):
            return [plain_at((*key, place), item) for place, item in enumerate(value)]
        if isinstance(value, Path):
            return str(value)
        if not isinstance(value, bool | int | float | str):
            errors.append(ConfigError(key, f"expected a value of TOML, got {seen(value)}"))
        return value

    tables: dict[str, Any] = plain_at((), document)
    if errors:
        raise RecipeError("\n".join(Source("recipe", None).report(errors)))
    return tables


def _text(path: str | Path) -> str:
    try:
        content = _content(Path(path))
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such file; {_nearby(Path(path))}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"{path}: {reason.lower()}") from error
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise RecipeError(
            f"{path}:1: toml: expected text in UTF-8, got UTF-16 or UTF-32; save it as UTF-8"
        )
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise RecipeError(f"{path}:{line}: toml: a NUL byte; save the recipe as text in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path}:{line}: toml: expected text in UTF-8") from error


def _content(path: Path) -> bytes:
    """The bytes of a file that has an end."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise RecipeError(
            f"{path}: it is no file but a pipe or a device; save the recipe in a file"
        )
    if status.st_size > _LARGEST:
        raise RecipeError(f"{path}: it has {readable(status.st_size)}, as no recipe has; name one")
    return path.read_bytes()


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
    if too_deep(text):
        raise RecipeError(_too_deep(path, text))
    if drive := DRIVE.search(text):
        line = text.count("\n", 0, drive.start()) + 1
        raise RecipeError(f"{path}:{line}: toml: {drive[0]} is no path; {BACKSLASH}")
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # tomllib's own, or Python's of an integer that is too long
        raise RecipeError(syntax_line(str(path), text, error)) from error
    except RecursionError as error:
        raise RecipeError(_too_deep(path, text)) from error
    if nested(document, DEEPEST):
        raise RecipeError(_too_deep(path, text))
    return document


def _too_deep(path: str | Path, text: str) -> str:
    key, line = deepest(text)
    outer = list(key[:4])
    while outer and isinstance(outer[-1], int):
        outer.pop()
    shown = f"{dotted(tuple(outer))}: " if outer else ""
    return f"{path}:{line}: {shown}toml: nested more than {DEEPEST} deep"


def _overridden(
    document: dict[str, Any], sets: Sequence[str], sweeps: Sequence[str], catalog: Catalog
) -> tuple[dict[str, Any], tuple[Override, ...], list[str]]:
    """The document with the overrides that can be applied, and a line for each that cannot."""
    kinds = {kind for parts in catalog.parts.values() for kind in parts}
    document = copy.deepcopy(document) if sets or sweeps else document
    overrides, refused = list[Override](), list[str]()
    given = [(text, False) for text in sets] + [(text, True) for text in sweeps]
    for text, swept in given:
        try:
            override = parse_override(text, swept=swept)
            apply_override(document, override, kinds)
        except ValueError as error:
            refused.append(one_line(f"{'--sweep' if swept else '--set'} {text}: {error}"))
        else:
            overrides.append(override)
    return document, tuple(overrides), refused
