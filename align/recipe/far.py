"""Numbers of a recipe so large or small that floats may not hold what is made of them."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from typing import Any, Final

from align.catalog.describe import dotted
from align.core.option import Key

_LARGE: Final = 1e8
_MANY: Final = 3  # that are named


def far_numbers(text: str) -> str:
    """A phrase that names the largest and smallest numbers of a resolved recipe; empty without any.

    Args:
        text: the recipe, as `to_toml` writes it.
    """
    found = [(key, n) for key, n in _floats(tomllib.loads(text)) if _is_far(n)]
    found.sort(key=lambda pair: -abs(math.log10(abs(pair[1]))))
    named = [f"{dotted(key)} = {number:g}" for key, number in found[:_MANY]]
    if not named:
        return ""
    verb = "is" if len(named) == 1 else "are"
    return f"{' and '.join(named)} {verb} far from usual numbers, which may be why"


def _is_far(number: float) -> bool:
    size = abs(number)
    return math.isfinite(number) and number != 0 and not 1 / _LARGE < size < _LARGE


def _floats(value: Any, key: Key = ()) -> Iterator[tuple[Key, float]]:
    """Every float with its key."""
    if isinstance(value, float):
        yield key, value
    elif isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _floats(item, (*key, name))
