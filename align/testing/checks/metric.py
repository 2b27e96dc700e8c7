"""Checks of metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.metric import Metric, finish_metric, merge_metric, update_metric
from align.core.streams import Streams
from align.testing.checks.form import form
from align.testing.checks.reward import noise
from align.testing.probes import untouched as unmoved


@final
@attrs.frozen(eq=False)
class Measuring:
    """A metric, and samples and references to measure."""

    part: Metric
    samples: Tensor
    references: Tensor

    def measure(self) -> dict[str, float]:
        """The numbers, with references if the metric needs them."""
        return self.part.compute(self.samples, self.given)

    @property
    def given(self) -> Tensor | None:
        """The references, if the metric needs them."""
        return self.references if self.part.needs_references else None


def subject(part: Metric, on: Callable[[], tuple[Tensor, Tensor]] | None) -> Measuring:
    """The metric on samples and references; on noisy pictures, or vectors of two numbers."""
    rows = (Streams(5, tuple(range(8))), Streams(6, tuple(range(6))))
    samples, references = on() if on else (noise(part.domain, streams) for streams in rows)
    return Measuring(part, samples, references)


def numbers(measuring: Measuring) -> None:
    """It returns plain finite floats by name, and the same names for other samples."""
    result = measuring.measure()
    assert result, "compute returned no numbers"
    for name, number in result.items():
        assert isinstance(name, str), f"the name {name!r} is not a string"
        assert type(number) is float, f"'{name}' is a {type(number).__name__}, not a float"
        assert math.isfinite(number), f"'{name}' is {number}"
    other = measuring.part.compute(measuring.samples[:4], measuring.given)
    assert list(other) == list(result), "other samples have numbers of other names"


def order(measuring: Measuring) -> None:
    """The order of samples and of references does not matter."""
    result, given = measuring.measure(), measuring.given
    back = None if given is None else given.flip(0)
    turned = measuring.part.compute(measuring.samples.flip(0), back)
    for name, number in result.items():
        same = math.isclose(turned[name], number, rel_tol=1e-4, abs_tol=1e-5)
        assert same, f"'{name}' is {number:.6g}, and {turned[name]:.6g} in reverse order"


def repeatable(measuring: Measuring) -> None:
    """The same samples have the same numbers again."""
    assert measuring.measure() == measuring.measure(), "other numbers the second time"


def merged(measuring: Measuring) -> None:
    """What is kept of two halves of the samples, merged, has the numbers of all samples."""
    part, cut = measuring.part, len(measuring.samples) // 2
    halves = (measuring.samples[:cut], measuring.samples[cut:])
    references = None if measuring.given is None else update_metric(part, measuring.given)
    state = merge_metric(part, [update_metric(part, half) for half in halves])
    numbers = finish_metric(part, state, references)
    for name, number in measuring.measure().items():
        same = math.isclose(numbers[name], number, rel_tol=1e-5, abs_tol=1e-6)
        assert same, f"'{name}' is {number:.6g}, and {numbers[name]:.6g} of two halves"


def needs_references(measuring: Measuring) -> None:
    """Without references it raises PartError if and only if it says that it needs them."""
    try:
        measuring.part.compute(measuring.samples, None)
    except PartError:
        needed = measuring.part.needs_references
        assert needed, "refuses to go without references, but says it needs none"
        return
    assert not measuring.part.needs_references, "needs no references, but says that it does"


def random_state(measuring: Measuring) -> None:
    """Torch's global random state is left as it was."""
    with unmoved(measuring.samples.device, "compute"):
        measuring.measure()


def inputs_untouched(measuring: Measuring) -> None:
    """Samples and references are not changed in place."""
    before = measuring.samples.clone(), measuring.references.clone()
    measuring.measure()
    assert torch.equal(before[0], measuring.samples), "compute changes the samples in place"
    assert torch.equal(before[1], measuring.references), "compute changes the references in place"


CHECKS: Final = (
    form,
    numbers,
    order,
    repeatable,
    merged,
    needs_references,
    random_state,
    inputs_untouched,
)
