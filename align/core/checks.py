"""Checks of numbers that lie on a device: asked of it once a step, and not once a call.

To read a number from a GPU is to wait for all that it has been given to do. So a check leaves its
numbers on the device, with a function that makes an error of them, until the step is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Final, TypeAlias, final

import attrs
import torch
from torch import Tensor
from torch._C import _functorch

from align.core.errors import AlignError

MakeError: TypeAlias = Callable[[Sequence[float]], AlignError | None]
"""Makes of a check's numbers the error that they mean; None where all is well."""


@final
@attrs.define(eq=False)
class Checks:
    """Checks that wait to be read.

    Attributes:
        wait: whether they wait until they are read; else each is read as it is made.
        pending: numbers () of each, on their device, and what makes an error of them.
    """

    wait: bool = False
    pending: list[tuple[tuple[Tensor, ...], MakeError]] = attrs.field(factory=list)

    def add(self, error: MakeError, *numbers: Tensor) -> None:
        """Make `error` of the numbers (), and raise it if there is one: now, or once they are read.

        Numbers of a function that torch differentiates mean nothing after it, so that they are read
        at once.
        """
        self.pending.append((numbers, error))
        if not self.wait or _functorch.peek_interpreter_stack() is not None:
            self.read()

    def read(self, *numbers: Tensor) -> list[float]:
        """The values of the numbers (), and of all checks that wait; raises the first error."""
        pending, self.pending = self.pending, []
        every = [*numbers, *(number for those, _ in pending for number in those)]
        values = _values(every)
        rest = iter(values[len(numbers) :])
        for those, make in pending:
            if error := make([next(rest) for _ in those]):
                raise error
        return values[: len(numbers)]


_CURRENT: Final[ContextVar[Checks | None]] = ContextVar("checks", default=None)


def checks() -> Checks:
    """Those of the step under way; outside of steps, checks that do not wait."""
    return _CURRENT.get() or Checks()


@contextmanager
def checks_read_once() -> Iterator[None]:
    """Let checks wait until the end of the context, or until `read`.

    Where something else is raised meanwhile, a check that fails is raised instead: it was first.
    """
    own = Checks(wait=True)
    token = _CURRENT.set(own)
    try:
        yield
        own.read()
    except Exception as error:
        try:
            own.read()
        except AlignError as first:
            raise first from error
        raise
    finally:
        own.wait = False  # a gradient may yet come
        _CURRENT.reset(token)


def read(numbers: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Numbers () by name as floats, and with them the checks of the step under way.

    Raises:
        AlignError: of the first check that fails.
    """
    values = iter(checks().read(*(n for n in numbers.values() if isinstance(n, Tensor))))
    return {name: next(values) if isinstance(n, Tensor) else n for name, n in numbers.items()}


def count_not_finite(numbers: Tensor) -> Tensor:
    """How many of the numbers are not finite, ()."""
    numbers = numbers.detach()
    return (numbers - numbers).count_nonzero()  # inf − inf is no number either


def count_changed(after: Tensor, before: Tensor) -> Tensor:
    """How many numbers of a tensor have other bits than before, ()."""
    if (after.shape, after.dtype) != (before.shape, before.dtype):
        return torch.ones((), device=before.device)
    bits = _BITS[after.element_size()]
    return (after.detach().view(bits) != before.detach().view(bits)).count_nonzero()


def extent(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest of the numbers, () each; both are no number where one is none."""
    numbers = numbers.detach()
    return torch.aminmax(numbers) if numbers.numel() else (numbers.sum(), numbers.sum())


_BITS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _values(numbers: Sequence[Tensor]) -> list[float]:
    """Numbers () as floats, with one wait for each device that they are on."""
    groups = dict[torch.device, dict[torch.dtype, list[int]]]()
    for place, number in enumerate(numbers):
        groups.setdefault(number.device, {}).setdefault(number.dtype, []).append(place)
    values = [0.0] * len(numbers)
    for device, types in groups.items():
        stacks = [torch.stack([numbers[place] for place in places]) for places in types.values()]
        if device.type != "cpu" and len(stacks) > 1:
            stacks = [torch.cat([stack.double() for stack in stacks])]
        found = chain.from_iterable(stack.tolist() for stack in stacks)
        for place, value in zip(chain.from_iterable(types.values()), found, strict=True):
            values[place] = value
    return values
