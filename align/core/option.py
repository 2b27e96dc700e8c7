"""Options: the fields of a part, which are the keys of its table in a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, TypeAlias, final

import attrs

Check: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], None]
Key: TypeAlias = tuple[str | int, ...]
"""Names of tables and indices of arrays, from the outermost in: ("reward", 0, "weight")."""


@final
@attrs.frozen
class ConfigError:
    """One mistake in a table: the key it is about, what is wrong, and what to do."""

    key: Key
    text: str

    def under(self, *outer: str | int) -> ConfigError:
        """The same mistake, seen from a table further out."""
        return ConfigError((*outer, *self.key), self.text)


@final
class ConfigErrors(ValueError):
    """Mistakes that were found together, with keys relative to one table.

    A check of an option, or a part's own `__attrs_post_init__`, raises ValueError for a mistake of
    the option or the part as a whole. It raises this where the mistakes lie deeper, in a table that
    is the option's value; a recipe then shows each at its own line.
    """

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = tuple(errors)
        texts = (": ".join((*map(str, error.key), error.text)) for error in self.errors)
        super().__init__("; ".join(texts))


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
