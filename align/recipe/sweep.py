"""[sweep]: an arm of the comparison for each choice of some values.

    [sweep]
    "reward[0].weight" = [1.0, 2.0, 5.0]
    mode.dynamics = ["ode", "sde"]

makes six arms, and `how = "zip"` as many as each array has values. Arms of [[compare]] stand before
them and are not varied: such as unsteered samples, which are the same for all.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, final

import attrs

from align.catalog.describe import describe_value, dotted, parse_key
from align.catalog.names import did_you_mean
from align.core.option import ConfigError, Key
from align.io.text import number_of
from align.recipe.write import inline

SECTION: Final = "sweep"
MOST_ARMS: Final = 256
VARIED: Final = ("model", "sampler", "estimator", "mode")
"""Sections that may differ from arm to arm."""

_HOW: Final = ("grid", "zip")
_JOIN: Final = "run the recipe once for each with --set, and join the runs by `align report A B`"


@final
@attrs.frozen
class _Factor:
    """What is varied.

    Attributes:
        place: of its array in the document.
        key: of the values within a recipe, or "weights" with the name of a reward.
        name: short, for tables and names of arms.
        values: one after the other.
    """

    place: Key
    key: Key
    name: str
    values: Sequence[Any]


@final
@attrs.frozen
class Sweep:
    """The arms of a sweep, and where in the document their values are.

    Attributes:
        first: place of the first of them among all tables of [[compare]].
        chosen: of each arm, the factors with the place of its value.
        errors: what is wrong with the section itself.
    """

    first: int = 0
    chosen: tuple[tuple[tuple[_Factor, int], ...], ...] = ()
    errors: tuple[ConfigError, ...] = ()

    def located(self, error: ConfigError) -> ConfigError:
        """An error about an arm that the sweep made, at the value that made it wrong."""
        arm = error.key[1] if error.key[:1] == ("compare",) and len(error.key) > 1 else None
        if not isinstance(arm, int) or not self.first <= arm < self.first + len(self.chosen):
            return error
        inner = error.key[2:]
        for factor, place in self.chosen[arm - self.first]:
            if factor.key[: len(inner)] == inner or inner[: len(factor.key)] == factor.key:
                return ConfigError((*factor.place, place), error.text)
        return ConfigError((SECTION,), error.text)


def expanded(document: Mapping[str, Any]) -> tuple[dict[str, Any], Sweep]:
    """The document with the arms of its sweep among those of [[compare]], and without the sweep."""
    rest = {name: value for name, value in document.items() if name != SECTION}
    tables = rest.get("compare", [])
    if SECTION not in document or not isinstance(tables, list):
        return rest, Sweep()
    factors, errors = _factors(document)
    if errors:
        return rest, Sweep(errors=tuple(errors))
    choices = _choices(factors, document[SECTION].get("how", "grid"))
    arms = map(_table, choices)
    return {**rest, "compare": [*tables, *arms]}, Sweep(len(tables), choices)


def _factors(document: Mapping[str, Any]) -> tuple[list[_Factor], list[ConfigError]]:
    """What is varied, and what is wrong with it."""
    section = document[SECTION]
    if not isinstance(section, Mapping):
        text = f"expected a table, got {describe_value(section)}; write its header as [sweep]"
        return [], [ConfigError((SECTION,), text)]
    names, factors, errors = _reward_names(document), list[_Factor](), list[ConfigError]()
    how = section.get("how", "grid")
    if how not in _HOW:
        text = f"expected one of 'grid', 'zip', got {describe_value(how)}"
        errors.append(ConfigError((SECTION, "how"), text))
    arrays = {k: v for k, v in section.items() if k != "how"}
    for place, values in _arrays(arrays):
        try:
            key = tuple(itertools.chain.from_iterable(parse_key(str(part)) for part in place))
            factors.append(_factor((SECTION, *place), key, values, names))
        except ValueError as error:
            errors.append(ConfigError((SECTION, *place), str(error)))
    if not arrays:
        text = 'nothing is varied; add a key with its values, as in "mode.steps" = [10, 20]'
        errors.append(ConfigError((SECTION,), text))
    if not errors:
        errors += _too_many(factors, how) or _twice(factors, how)
    return _named_apart(factors), errors


def _arrays(table: Mapping[str, Any], outer: Key = ()) -> Iterator[tuple[Key, Any]]:
    """The values of a section with their keys; a key may be written with dots or in quotes."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _arrays(value, (*outer, key))
        else:
            yield (*outer, key), value


def _reward_names(document: Mapping[str, Any]) -> list[str]:
    """What each reward is called by its own table: its name, or else its kind."""
    tables = document.get("reward", [])
    known = [table if isinstance(table, dict) else {} for table in tables or ()]
    return [str(table.get("name") or table.get("kind", "")) for table in known]


def _factor(place: Key, key: Key, values: Any, rewards: Sequence[str]) -> _Factor:
    """A factor; raises ValueError for what cannot be varied."""
    if not isinstance(values, list) or not values:
        got = describe_value(values) if values != [] else "an empty one"
        raise ValueError(f"expected an array of the values to try, got {got}")
    root = key[0]
    if root in VARIED and len(key) > 1:
        if any(isinstance(part, int) for part in key):
            raise ValueError("an element of an array cannot be varied alone; vary the whole array")
        name = str(root) if key[-1] == "kind" and len(key) == 2 else str(key[-1])
        return _Factor(place, key, name, values)
    if root in VARIED:
        return _Factor(place, key, str(root), values)
    if root == "reward":
        if len(key) != 3 or not isinstance(key[1], int) or key[2] != "weight":
            text = f'of a reward its weight alone can be varied, as {SECTION}."reward[0].weight"'
            raise ValueError(f"{text}; for other options {_JOIN}")
        if key[1] >= len(rewards):
            raise ValueError(f"the recipe has {number_of(len(rewards), 'reward')}, counted from 0")
        key = ("weights", rewards[key[1]])
    elif root != "weights" or len(key) != 2:
        if root in ("run", "metric", "compare"):
            raise ValueError(f"[{root}] is the same for all arms; {_JOIN}")
        raise ValueError(f"no section named '{root}'; {did_you_mean(str(root), VARIED)}")
    name = "weight" if len(rewards) == 1 else f"weight of {key[1]}"
    return _Factor(place, key, name, values)


def _named_apart(factors: Sequence[_Factor]) -> list[_Factor]:
    """The factors, whole keys in place of short names that several have."""
    counts = Counter(factor.name for factor in factors)
    return [
        factor if counts[factor.name] == 1 else attrs.evolve(factor, name=dotted(factor.key))
        for factor in factors
    ]


def _too_many(factors: Sequence[_Factor], how: str) -> list[ConfigError]:
    counts, errors = [len(factor.values) for factor in factors], list[ConfigError]()
    if how == "zip" and len(set(counts)) > 1:
        shown = ", ".join(f"{dotted(f.place[1:])} {len(f.values)}" for f in factors)
        text = f"how = 'zip' takes one value of each at a time, but they have {shown}"
        errors.append(ConfigError((SECTION,), f"{text}; give all as many, or use 'grid'"))
    arms = math.prod(counts) if how == "grid" else max(counts)
    if arms > MOST_ARMS:
        text = f"{arms:,} arms, and a run has at most {MOST_ARMS}; vary less, or take several runs"
        errors.append(ConfigError((SECTION,), text))
    return errors


def _twice(factors: Sequence[_Factor], how: str) -> Iterator[ConfigError]:
    """Values that would make an arm twice: of an array, or with 'zip' of all arrays together."""
    if how == "zip":
        rows = list(zip(*(map(_named, factor.values) for factor in factors), strict=True))
        for place, row in enumerate(rows):
            if (first := rows.index(row)) < place:
                text = f"values {first + 1} and {place + 1} of its arrays are the same"
                yield ConfigError((SECTION,), f"{text}; leave one of them out")
        return
    for factor in factors:
        names = list(map(_named, factor.values))
        for place, name in enumerate(names):
            if names.index(name) < place:
                text = f"{name} stands here twice; leave one of them out"
                yield ConfigError((*factor.place, place), text)


def _choices(factors: Sequence[_Factor], how: str) -> tuple[tuple[tuple[_Factor, int], ...], ...]:
    """Of each arm, every factor with the place of its value; the last factor changes fastest."""
    places = [range(len(factor.values)) for factor in factors]
    rows = itertools.product(*places) if how == "grid" else zip(*places, strict=True)
    return tuple(tuple(zip(factors, row, strict=True)) for row in rows)


def _table(choice: Iterable[tuple[_Factor, int]]) -> dict[str, Any]:
    """The table of an arm, as [[compare]] has it."""
    table: dict[str, Any] = {"name": "", "factors": {}}
    for factor, place in choice:
        value = factor.values[place]
        here = table
        for part in factor.key[:-1]:
            here = here.setdefault(str(part), {})
        here[str(factor.key[-1])] = value
        table["factors"][factor.name] = shown = _shown(value)
        table["name"] += f"{', ' if table['name'] else ''}{factor.name} {_word(shown)}"
    return table


def _shown(value: Any) -> Any:
    """A value as tables have it: a number, or a word."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping) and set(value) == {"kind"}:
        return value["kind"]
    return inline(value)


def _named(value: Any) -> str:
    """A value as names of arms have it."""
    return _word(_shown(value))


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, int | float) else str(value)
