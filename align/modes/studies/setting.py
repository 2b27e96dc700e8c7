"""What studies share: clean data to measure against, steps to go through, and calls to count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import attrs

from align.core.option import Check, option
from align.core.problem import Problem
from align.core.sampler import PosteriorSampler
from align.engine.guard import GuardedModel

Made = TypeVar("Made")


def each(fine: Callable[[Any], bool], expected: str) -> Check:
    """Refuse an empty array, and one with an entry that is not `fine`."""

    def check(_: Any, attribute: attrs.Attribute[Any], values: Any) -> None:
        for value in values or ["nothing"]:
            if not (values and fine(value)):
                raise ValueError(f"'{attribute.name}' must be {expected}, got {value}")

    return check


def counts_option(help: str, *, default: tuple[int, ...]) -> Any:
    """An option that names several numbers of steps."""
    return option(help, default=default, check=each(lambda n: n >= 1, "steps of at least 1"))


def inner_steps_option() -> Any:
    """The option `inner_steps`."""
    return counts_option("steps of the sampler from noise to a draw", default=(1, 2, 4, 8, 16))


def varied(
    sampler: PosteriorSampler | None, counts: Sequence[int], which: int
) -> PosteriorSampler | None:
    """The sampler with one of these numbers of steps; as it is, and once only, if it has none."""
    assert sampler is not None
    if "steps" in attrs.fields_dict(type(sampler)):
        return attrs.evolve(sampler, **{"steps": counts[which]})
    return None if which else sampler


def counted(model: GuardedModel, make: Callable[[], Made]) -> tuple[Made, int]:
    """What `make` makes, and the network calls that it took."""
    before = model.meter.calls["network"]
    made = make()
    return made, model.meter.calls["network"] - before


def cuts(problem: Problem, rows: int) -> Iterator[slice]:
    """All rows, as many at a time as fit into memory without a way back."""
    most = 4 * problem.chunk
    return (slice(first, min(first + most, rows)) for first in range(0, rows, most))
