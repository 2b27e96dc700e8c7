"""One time for a pipeline, in which each row of the batch has a time of its own.

A pipeline steps through single times and spreads each over the rows of its batch. `RowTimes` looks
like such a time, and turns into the times of all rows where it is spread. So rows of different
times are rows of one call, and nobody has to ask the device whether they are the same. `agree` says
whether a pipeline's network is then given what it is given for each row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from align_diffusers.probe import first_argument

_SPREAD: Final = frozenset({Tensor.expand, Tensor.expand_as, Tensor.broadcast_to, Tensor.repeat})


class RowTimes(Tensor):
    """A list of times, or a time, that has the value of the first row.

    Attributes:
        rows: the same for all B rows, (..., B).
    """

    rows: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> RowTimes:
        """Times (...,) of rows (..., B)."""
        made: RowTimes = rows[..., 0].detach().as_subclass(cls)
        made.rows = rows
        return made

    def spread(self, count: int) -> Tensor:
        """The times of `count` rows, (count,): of the batch, as often as guidance repeats it."""
        times = self.rows.reshape(-1)
        return times.repeat(count // len(times))

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do to the times of all rows what is done to the first one's."""
        given = (tuple(args), dict(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            first, rows = tree_map(_first, given), tree_map(_rows, given)
            if func is Tensor.unbind:
                return tuple(cls.of(time) for time in rows[0][0].unbind(0))
            result = func(*first[0], **first[1])
            if func in _SPREAD and isinstance(args[0], RowTimes) and result.dim() == 1:
                return args[0].spread(len(result))
            if not isinstance(result, Tensor):
                return result
            try:
                of_rows = func(*rows[0], **rows[1])
            except (RuntimeError, IndexError, TypeError):  # not of times row by row
                return result
            if isinstance(of_rows, Tensor) and of_rows.shape[:-1] == result.shape:
                return cls.of(of_rows)
            return result


def _first(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, RowTimes) else value


def _rows(value: Any) -> Any:
    return value.rows if isinstance(value, RowTimes) else value


def spread_all(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Arguments of a network, in which times are those of its rows."""
    count = len(first_argument(args, kwargs))

    def spread(value: Any) -> Any:
        return value.spread(count) if isinstance(value, RowTimes) else value

    return tree_map(spread, args), tree_map(spread, kwargs)


def agree(both: Any, one: Any, two: Any) -> bool:
    """Whether what is given for two rows is what is given for each, block by block."""
    if isinstance(both, Tensor):
        if not (isinstance(one, Tensor) and isinstance(two, Tensor) and one.shape == two.shape):
            return False
        if both.shape == one.shape:
            return bool(torch.equal(both, one) and torch.equal(both, two))
        wanted = torch.stack((one, two), 1).flatten(0, 1) if one.dim() else both.new_empty(0)
        return both.shape == wanted.shape and bool(torch.allclose(both, wanted))
    if isinstance(both, Mapping):
        keys = both.keys()
        return keys == one.keys() == two.keys() and all(
            agree(both[key], one[key], two[key]) for key in keys
        )
    if isinstance(both, list | tuple):
        if len(both) == 2 * len(one):
            wanted_items = [item for pair in zip(one, two, strict=True) for item in pair]
            return all(
                agree(item, same, same) for item, same in zip(both, wanted_items, strict=True)
            )
        if not len(both) == len(one) == len(two):
            return False
        return all(map(agree, both, one, two))
    return bool(both is one or both == one) and bool(both is two or both == two)
