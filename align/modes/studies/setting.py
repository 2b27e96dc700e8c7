"""Shared by studies: options, numbers of steps to go through, and network calls to count."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import attrs
from torch import Tensor

from align.core.option import Check, option
from align.core.problem import Problem
from align.core.sampler import PosteriorSampler
from align.engine.guard import GuardedModel

Result = TypeVar("Result")


def every(allowed: Callable[[Any], bool], expected: str) -> Check:
    """Refuse an empty array, and one with an entry that is not `allowed`; `expected` in words."""

    def check(_: Any, attribute: attrs.Attribute[Any], values: Any) -> None:
        for value in values or ["nothing"]:
            if not (values and allowed(value)):
                raise ValueError(f"'{attribute.name}' must be {expected}, got {value}")

    return check


def counts_option(help: str, *, default: tuple[int, ...]) -> Any:
    """An option that names several numbers of steps."""
    check = every(lambda n: n >= 1, "steps of at least 1")
    return option(help, default=default, check=check, grows="calls")


def inner_steps_option() -> Any:
    """The option `inner_steps`."""
    return counts_option("steps of the sampler from noise to a draw", default=(1, 2, 4, 8, 16))


def varied(
    sampler: PosteriorSampler | None, counts: Sequence[int], which: int
) -> PosteriorSampler | None:
    """The sampler with number `which` of these numbers of steps.

    A sampler without the option `steps` is returned as it is for the first number, and None for the
    others.
    """
    assert sampler is not None
    if "steps" in attrs.fields_dict(type(sampler)):
        return attrs.evolve(sampler, **{"steps": counts[which]})
    return None if which else sampler


def counted(model: GuardedModel, make: Callable[[], Result]) -> tuple[Result, int]:
    """The result of `make`, and the number of network calls of the model in it."""
    before = model.meter.calls["network"]
    result = make()
    return result, model.meter.calls["network"] - before


def standard_error(values: Tensor) -> float | None:
    """Of the mean of values (n,); None where there is one value only."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None


def cuts(problem: Problem, rows: int) -> Iterator[slice]:
    """Slices that cover all rows, each as large as memory allows without a backward pass."""
    limit = problem.chunks.cap
    return (slice(first, min(first + limit, rows)) for first in range(0, rows, limit))
