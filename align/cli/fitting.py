"""`align list --for RECIPE`: which other parts would go with those of a recipe, and why not."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple, get_origin

import attrs

from align.catalog.contracts import plural
from align.catalog.describe import contract_of, members
from align.catalog.registry import Catalog, Entry
from align.cli.shown import two_columns
from align.core.errors import AlignError
from align.core.interrupt import is_interrupt
from align.core.term import RewardTerm
from align.recipe.compatibility import problems
from align.recipe.schema import Arm, Recipe


class Fit(NamedTuple):
    """A part that may take a place in a recipe, and why it cannot; "" where it can."""

    kind: str
    summary: str
    reason: str


def fitting_lines(recipe: Recipe, catalog: Catalog, contracts: Collection[str]) -> Iterator[str]:
    """What may stand in each place of a recipe; of several arms, in one of [mode]'s own kind.

    Args:
        recipe: the recipe.
        catalog: of the parts.
        contracts: that are asked for; all where there are none.
    """
    wanted = set(map(plural, contracts))
    for place, fits in fitting(recipe, catalog):
        if wanted and place.partition(" ")[0] not in wanted:
            continue
        yield f"{place}:"
        rows = sorted((bool(each.reason), each.kind, _told(each)) for each in fits)
        yield from two_columns([row[1:] for row in rows])


def _told(fit: Fit) -> str:
    return f"no: {fit.reason}" if fit.reason else fit.summary


def fitting(recipe: Recipe, catalog: Catalog) -> Iterator[tuple[str, list[Fit]]]:
    """Every place of a recipe, each with the parts that could be meant for it.

    A part is tried as the recipe has it, others with their defaults, by the checks that every
    recipe passes. What depends on options that have none is left to these checks, once the options
    are there.
    """
    arms = recipe.arms()
    arm = max(arms, key=lambda a: (a.mode.kind == recipe.mode.kind, len(a.mode.needs)))
    arms = (arm, attrs.evolve(arm, name="another"))[: len(arms)]
    recipe = attrs.evolve(recipe, compare=arms)
    for section in ("sampler", "estimator"):
        if section in arm.mode.needs or getattr(arm, section) is not None:
            yield plural(section), _tried(recipe, section, catalog)
    for field in attrs.fields(attrs.resolve_types(type(arm.mode))):
        for tp in members(field.type) or [field.type]:
            if (contract := contract_of(tp)) and field.init:
                place = f"{plural(contract)} (mode.{field.alias or field.name})"
                yield place, _tried(recipe, field.name, catalog, contract, get_origin(tp) or tp)
    for section in ("reward", "mode", "metric"):
        yield plural(section), _tried(recipe, section, catalog)


def _tried(
    recipe: Recipe, place: str, catalog: Catalog, contract: str = "", cls: type = object
) -> list[Fit]:
    """The parts of a contract, which is the place's name unless the place is the mode's option."""
    return [
        Fit(kind, entry.summary, _reason(recipe, place, bool(contract), entry, catalog))
        for kind, entry in sorted(catalog.parts[contract or place].items())
        if issubclass(entry.cls, cls)
    ]


def _reason(recipe: Recipe, place: str, of_mode: bool, entry: Entry, catalog: Catalog) -> str:
    """Why a recipe could not have a part in some place; "" where nothing speaks against it."""
    try:
        there = (part for part in _there(recipe, place) if type(part) is entry.cls)
        changed = _with(recipe, place, of_mode, next(there, None) or draft(entry.cls))
        tables: dict[str, Any] = {"compare": [{}] * len(changed.arms())}
        error = next(problems(changed, tables, catalog), None)
    except (ValueError, AlignError) as refused:
        return _short(str(refused), entry.kind)
    except Exception as failed:  # of a part without the options that it must have
        if is_interrupt(failed):
            raise
        return ""
    return _short(error.text, entry.kind) if error else ""


def _there(recipe: Recipe, place: str) -> Iterator[Any]:
    """The recipe's own parts in some place, with their options."""
    if place == "reward":
        return (term.part for term in recipe.reward)
    if place == "metric":
        return iter(recipe.metric)
    return (getattr(arm, place, None) or getattr(arm.mode, place, None) for arm in recipe.arms())


def _with(recipe: Recipe, place: str, of_mode: bool, part: Any) -> Recipe:
    """The recipe with a part in some place."""
    if place == "reward":
        return attrs.evolve(recipe, reward=(*recipe.reward, RewardTerm(part=part, name=part.kind)))
    if place == "metric":
        return attrs.evolve(recipe, metric=(part,))

    def changed(arm: Arm) -> Arm:
        if of_mode:
            return attrs.evolve(arm, mode=attrs.evolve(arm.mode, **{place: part}))
        return attrs.evolve(arm, **{place: part})

    return attrs.evolve(recipe, compare=tuple(map(changed, recipe.arms())))


def draft(cls: Any) -> Any:
    """A part with the options that have defaults, and without the others."""
    part = cls.__new__(cls)
    for field in attrs.fields(cls):
        default: Any = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory(*[part] if default.takes_self else [])
        if default is not attrs.NOTHING:
            object.__setattr__(part, field.name, default)
    return part


def _short(text: str, kind: str) -> str:
    """A reason without the name of the part before it, and without advice after it."""
    return text.partition("; ")[0].removeprefix(f"'{kind}' ")
