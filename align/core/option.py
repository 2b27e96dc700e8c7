"""Options: the fields of a part, which are the keys of its table in a recipe."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeAlias

import attrs

Check: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def option(
    help: str, *, default: Any = attrs.NOTHING, check: Check | None = None, shown: str = "depends"
) -> Any:
    """A field with the help that `align show` prints; without a default the key is required.

    `shown` is printed for a default that is made from the other fields.
    """
    return attrs.field(default=default, validator=check, metadata={"help": help, "shown": shown})


def at_least(bound: float) -> Check:
    """Refuse numbers below `bound`."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not value >= bound:
            raise ValueError(f"'{attribute.name}' must be at least {bound:g}, got {value:g}")

    return check


def above(bound: float) -> Check:
    """Refuse numbers up to `bound`."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not value > bound:
            raise ValueError(f"'{attribute.name}' must be greater than {bound:g}, got {value:g}")

    return check


def between(low: float, high: float) -> Check:
    """Refuse numbers outside [low, high]."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not low <= value <= high:
            name = attribute.name
            raise ValueError(f"'{name}' must be from {low:g} to {high:g}, got {value:g}")

    return check


def rising_to(end: float) -> Check:
    """Refuse numbers that do not rise strictly from 0 or more to `end`; none at all is fine."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        rises = all(before < after for before, after in pairwise(value))
        if value and not (len(value) > 1 and rises and value[0] >= 0 and value[-1] == end):
            raise ValueError(f"'{attribute.name}' must rise from 0 or more to exactly {end:g}")

    return check
