"""From a TOML document to a recipe: its sections, its rewards' names, its comparison."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

import attrs
from cattrs import Converter

from align.catalog.convert import strict_converter
from align.catalog.describe import describe_value
from align.catalog.names import did_you_mean
from align.catalog.registry import Catalog
from align.core.option import MOST_ERRORS, ConfigError, ConfigErrors, Key
from align.core.term import RewardTerm
from align.recipe.schema import Arm, Recipe
from align.recipe.source_map import holds
from align.recipe.sweep import SECTION, VARIED

LONGEST_NAME: Final = 200
"""Letters of an arm's name, which stands in tables and above pictures."""


def read_recipe(document: Mapping[str, Any], catalog: Catalog) -> Recipe:
    """The recipe that a document describes.

    Raises:
        Faults: all that is wrong with it.
    """
    converter = strict_converter(catalog)
    fields: dict[str, Any] = attrs.fields_dict(attrs.resolve_types(Recipe))
    sections = sorted({*fields, SECTION} - {"files"})  # which nobody writes by hand
    errors = [
        ConfigError((name,), f"no section named '{name}'; {did_you_mean(name, sections)}")
        for name in islice((name for name in document if name not in fields), MOST_ERRORS)
    ]
    read: dict[str, Any] = {}
    for name, field in fields.items():
        if name in document and name != "compare":
            try:
                read[name] = converter.structure(document[name], field.type)
            except ConfigErrors as error:
                errors += [error.under(name) for error in error.errors]
    if "mode" not in document:
        known = did_you_mean("", catalog.parts["mode"])
        errors.append(
            ConfigError(("mode",), f"required section is missing; add [mode] with a kind, {known}")
        )
    errors += repeated("reward", [term.name for term in read.get("reward", ())])
    arms, more = _read_arms(converter, document, read, errors)
    terms = with_unique_names(read.get("reward", ()))
    more += [error for number, arm in enumerate(arms) for error in _weights(number, arm, terms)]
    if errors + more:
        raise ConfigErrors(errors + more)
    return Recipe(**read | {"reward": terms, "compare": arms})


def _weights(number: int, arm: Arm, terms: Iterable[RewardTerm]) -> Iterable[ConfigError]:
    """What is wrong with the weights of arm `number`."""
    held_out = {term.name: term.held_out for term in terms}
    for name, weight in (arm.weights or {}).items():
        key: Key = ("compare", number, "weights", name)
        if not math.isfinite(weight):
            yield ConfigError(key, f"a weight must be finite, got {weight:g}")
        if name not in held_out:
            yield ConfigError(key, f"no reward named '{name}'; {did_you_mean(name, held_out)}")
        elif held_out[name]:
            text = "this reward is held out, so that its weight counts nowhere; take it out"
            yield ConfigError(key, text)


def merged(base: Any, change: Any) -> Any:
    """`base` with the keys of `change`; a table that names another kind replaces its own whole.

    A string beside a table with a kind stands for the table with that kind.
    """
    if isinstance(base, str) and isinstance(change, Mapping):
        base = {"kind": base}
    elif isinstance(change, str) and isinstance(base, Mapping) and "kind" in base:
        change = {"kind": change}
    if not isinstance(base, Mapping) or not isinstance(change, Mapping):
        return change
    if change.get("kind", base.get("kind")) != base.get("kind"):
        return change
    return {**base, **{key: merged(base.get(key), item) for key, item in change.items()}}


def with_unique_names(terms: Iterable[RewardTerm]) -> tuple[RewardTerm, ...]:
    """The terms, those without a name named after their kind, with a number where taken."""
    terms = tuple(terms)
    taken, counts = {term.name for term in terms}, Counter[str]()
    named = []
    for term in terms:
        name, kind = term.name or term.part.kind, term.part.kind
        while not term.name and name in taken:
            counts[kind] += 1
            name = f"{kind}_{counts[kind] + 1}"
        taken.add(name)
        named.append(attrs.evolve(term, name=name))
    return tuple(named)


def repeated(section: str, names: Iterable[Any]) -> list[ConfigError]:
    """The names that are taken already, of tables in their order."""
    first, errors = dict[str, int](), list[ConfigError]()
    for index, name in enumerate(names):
        if isinstance(name, str) and name and first.setdefault(name, index) < index:
            text = f"the name '{name}' is taken by {section}[{first[name]}]; choose another"
            errors.append(ConfigError((section, index, "name"), text))
    return errors


def _read_arms(
    converter: Converter,
    document: Mapping[str, Any],
    read: Mapping[str, Any],
    base_errors: list[ConfigError],
) -> tuple[tuple[Arm, ...], list[ConfigError]]:
    tables = document.get("compare", [])
    if not isinstance(tables, list):
        text = (
            f"expected an array of tables, got {describe_value(tables)}; write its header in [[ ]]"
        )
        return (), [ConfigError(("compare",), text)]
    names = [table.get("name") if isinstance(table, dict) else None for table in tables]
    arms, errors = list[Arm](), repeated("compare", names)
    for index, table in enumerate(tables):
        if len(errors) > MOST_ERRORS:
            break
        if not isinstance(table, dict):
            text = f"expected a table, got {describe_value(table)}"
            errors.append(ConfigError(("compare", index), text))
            continue
        changed, arm_errors = _read_arm(converter, document, table)
        errors += [
            error.under("compare", index)
            for error in arm_errors
            if error not in base_errors or holds(table, error.key)
        ]
        if not errors and not base_errors:
            base: dict[str, Any] = {name: read.get(name) for name in VARIED}
            arms.append(Arm(**base | changed))
    return tuple(arms), errors


def _read_arm(
    converter: Converter, document: Mapping[str, Any], table: Mapping[str, Any]
) -> tuple[dict[str, Any], list[ConfigError]]:
    """What one [[compare]] table changes, and what is wrong with it."""
    changed: dict[str, Any] = {}
    errors: list[ConfigError] = []
    fields: dict[str, Any] = attrs.fields_dict(attrs.resolve_types(Arm))
    name = table.get("name")
    if isinstance(name, str) and not name.strip():
        errors.append(ConfigError(("name",), f"expected a name, got the string '{name}'"))
    if isinstance(name, str) and len(name) > LONGEST_NAME:
        text = f"a name has at most {LONGEST_NAME} letters, got {len(name)}"
        errors.append(ConfigError(("name",), text))
    if "name" not in table:
        errors.append(ConfigError(("name",), "required key is missing; expected a string"))
    for key, item in table.items():
        if key not in fields:
            text = f"[{key}] is the same for all that is compared; take it out of [[compare]]"
            if key == "reward":
                text = "rewards are the same for all that is compared, but for weights; write"
                text += " weights = { NAME = 2.0 } with a reward's name, or vary it by [sweep]"
            if key not in attrs.fields_dict(Recipe):
                text = f"no section named '{key}'; {did_you_mean(key, fields)}"
            errors.append(ConfigError((key,), text))
            continue
        whole = item if key == "name" else merged(document.get(key), item)
        try:
            changed[key] = converter.structure(whole, fields[key].type)
        except ConfigErrors as error:
            errors += [error.under(key) for error in error.errors]
    return changed, errors
