"""What a part says of itself, by the properties of its contract: is it of the promised type."""

from __future__ import annotations

import inspect
import reprlib
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, Union, get_args, get_origin

import attrs

from align.core.attribution import attributed
from align.core.errors import AlignError


def wrong_promises(contract: type, part: object) -> Iterator[str]:
    """One sentence for each property of the contract for which a part, or its class, is wrong.

    Of a class, only what it says as a plain attribute is looked at. What a part raises as a message
    to the user is no promise and is left to whoever asks for it again.

    Args:
        contract: the base class.
        part: a part, or a class of parts.
    """
    name = part.__name__ if isinstance(part, type) else type(part).__name__
    for promise, hint in _promises(contract).items():
        if isinstance(part, type) and _depends(part, promise):
            continue
        value: Any = None
        try:
            with attributed(f"its {promise}", _Failed):
                value = getattr(part, promise)
        except _Failed as error:
            yield f"{name}: {error}"
            continue
        except AlignError:
            continue
        expected = inspect.formatannotation(hint, "typing")
        if not _is(value, hint):
            yield f"{name}: its {promise} is {reprlib.repr(value)}, expected {expected}"
        elif promise == "range" and not value[0] <= value[1]:
            yield f"{name}: its range is {value}, expected the lower number first"


class _Failed(AlignError):
    """A property raised something."""


def _depends(cls: type, name: str) -> bool:
    """Whether what a class has by that name is an option, or computed by each part."""
    value = inspect.getattr_static(cls, name, None)
    is_option = attrs.has(cls) and name in attrs.fields_dict(cls)
    return is_option or hasattr(type(value), "__get__")


def _promises(contract: type) -> Mapping[str, Any]:
    """Type of each property that a contract defines."""
    hints = dict[str, Any]()
    for name, value in vars(contract).items():
        if isinstance(value, property) and value.fget is not None:
            try:
                hints[name] = inspect.get_annotations(value.fget, eval_str=True).get("return", Any)
            except NameError:
                hints[name] = Any
    return hints


_NUMBERS: Final[Mapping[Any, tuple[type, ...]]] = {float: (int, float), int: (int,)}


def _is(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, as far as contracts use types."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in (None, types.NoneType, Any):
        return value is None or hint is Any
    if origin is Literal:
        return any(type(value) is type(known) and value == known for known in inner)
    if origin in (Union, types.UnionType):
        return any(_is(value, option) for option in inner)
    if origin in (tuple, frozenset):
        return _has_items(value, origin, inner)
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint]) and not isinstance(value, bool)
    cls = origin or hint
    return not isinstance(cls, type) or isinstance(value, cls)


def _has_items(value: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    """Whether a value is a tuple or a set of items of these types; lists pass as both."""
    if not isinstance(value, tuple | list if origin is tuple else frozenset | set | tuple | list):
        return False
    alike = origin is frozenset or inner[-1] is Ellipsis
    each = [inner[0]] * len(value) if alike else inner
    return len(value) == len(each) and all(map(_is, value, each))
