"""Times of calls that are measured in turn, and sizes of what is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import attrs
import torch

CPU = torch.device("cpu")
Clock = Callable[[], float]


@attrs.frozen(kw_only=True)
class Sizes:
    """How large, and how often.

    Attributes:
        rows: samples at once.
        steps: steps of a sampler.
        rounds: rounds of all calls in turn.
        batch: rows of a training step.
        toy: whether it is enough that every part runs; then few cases do.
    """

    rows: int
    steps: int
    rounds: int
    batch: int
    toy: bool = False


def seconds(call: Callable[[], object], clock: Clock = time.process_time) -> float:
    """Seconds of one call, the processor's in this process unless another clock is given."""
    began = clock()
    call()
    return clock() - began


def shortest(
    calls: Mapping[str, Callable[[], object]], rounds: int, clock: Clock = time.process_time
) -> dict[str, float]:
    """The shortest time of each call, seconds, of so many rounds of all of them in turn.

    In turn, since the pace of a machine changes within minutes; the shortest, since whatever else
    the machine does can only add. A first round is not counted.
    """
    for call in calls.values():
        call()
    times = [{name: seconds(call, clock) for name, call in calls.items()} for _ in range(rounds)]
    return {name: min(row[name] for row in times) for name in calls}


def ratio(call: Callable[[], object], reference: Callable[[], object], rounds: int) -> float:
    """The shortest time of a call over that of the reference, measured in turn."""
    found = shortest({"call": call, "reference": reference}, rounds)
    return found["call"] / found["reference"]
