"""Options: the fields of a part, which are the keys of its table in a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, pairwise
from os.path import expanduser
from typing import Any, Final, Literal, TypeAlias, final

import attrs

Check: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], None]
Grows: TypeAlias = Literal["calls", "rows", "pixels"]
PathUse: TypeAlias = Literal["required", "code", "kept", "written"]
Key: TypeAlias = tuple[str | int, ...]
"""Names of tables and indices of arrays, from the outermost in: ("reward", 0, "weight")."""


MOST_ERRORS: Final = 40
"""Mistakes of one array or table that are told; more of one kind help nobody."""


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
    help: str,
    *,
    default: Any = attrs.NOTHING,
    check: Check | None = None,
    shown: str = "depends",
    infinite: bool = False,
    path: bool | PathUse = False,
    grows: Grows | None = None,
) -> Any:
    """A field with the help that `align show` prints; without a default the key is required.

    Args:
        help: a text that can be read alone.
        default: the value where the key is left out.
        check: raises ValueError for a value that is refused.
        shown: printed for a default that is made from the other fields.
        infinite: whether infinity has a meaning here; else numbers are finite, and never NaN.
        path: whether the value is a path, which may begin with "~", the home folder. It is looked
            for beside the recipe and in the working folder, and the part is given the absolute one;
            where nothing is there the text stays, since it may be a name. What is there counts as
            part of the recipe. More is said by "required", which has missing files refused; "code",
            a Python file or the name of a module, whose own imports count as well; "kept", a folder
            that need not be there and does not count; and "written", which starts at the working
            folder.
        grows: what a larger number costs, so that a recipe is refused where that is too much:
            network calls one after the other, in every step of a run; rows that are held at once;
            or pictures with so many pixels a side.
    """
    infinite = infinite or any(_numbers(default, math.isinf))
    numbers = _not_nan if infinite else finite
    validators = [numbers, check] if check else numbers
    return attrs.field(
        default=default,
        validator=validators,
        converter=attrs.converters.optional(expanduser) if path else None,
        metadata={"help": help, "shown": shown, "path": path, "grows": grows, "check": check},
    )


def finite(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Refuse NaN and infinity, however deep in arrays and tables; every option has this check."""
    _refuse(attribute.name, value, lambda number: not math.isfinite(number))


def _not_nan(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    _refuse(attribute.name, value, math.isnan)


def _refuse(name: str, value: Any, refused: Callable[[float], bool]) -> None:
    """Raise ConfigErrors for the numbers that are refused, however deep they lie in arrays."""
    numbers = islice(_numbers(value, refused), MOST_ERRORS)
    text = f"'{name}' must be finite, got "
    errors = [
        ConfigError(key, text + ("nan, which is no number" if math.isnan(n) else f"{n:g}"))
        for key, n in numbers
    ]
    if errors:
        raise ConfigErrors(errors)


def _numbers(value: Any, wanted: Callable[[float], bool]) -> Iterator[tuple[Key, float]]:
    """The numbers in a value that are wanted, with their keys."""
    if isinstance(value, float) and wanted(value):
        yield (), value
    elif isinstance(value, tuple | list | Mapping):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            if isinstance(item, float | tuple | list | Mapping):
                yield from (((key, *inner), number) for inner, number in _numbers(item, wanted))


@final
@attrs.frozen
class Bounds:
    """A check that refuses numbers outside some bounds, which editors are told as well.

    Attributes:
        low: the lowest number that is allowed, or the highest that is not.
        high: the highest number that is allowed.
        is_open: whether `low` itself is refused.
    """

    low: float
    high: float = math.inf
    is_open: bool = False

    def __call__(self, _: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        """Raise ValueError for a number outside."""
        if (self.low < value if self.is_open else self.low <= value) and value <= self.high:
            return
        bounds = f"{'greater than' if self.is_open else 'at least'} {self.low:g}"
        if self.high < math.inf:
            bounds = f"from {self.low:g} to {self.high:g}"
        raise ValueError(f"'{attribute.name}' must be {bounds}, got {value:g}")


def at_least(bound: float) -> Bounds:
    """Refuse numbers below `bound`."""
    return Bounds(bound)


def above(bound: float) -> Bounds:
    """Refuse numbers up to `bound`."""
    return Bounds(bound, is_open=True)


def between(low: float, high: float) -> Bounds:
    """Refuse numbers outside [low, high]."""
    return Bounds(low, high)


def rising_to(end: float) -> Check:
    """Refuse numbers that do not rise strictly from 0 or more to `end`; none at all is fine."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        rises = all(before < after for before, after in pairwise(value))
        if value and not (len(value) > 1 and rises and value[0] >= 0 and value[-1] == end):
            raise ValueError(f"'{attribute.name}' must rise from 0 or more to exactly {end:g}")

    return check
