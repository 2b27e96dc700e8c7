"""What a call of a part costs, in bytes, seconds and operations: fixed + slope · rows.

A part is called with one row and with two; with more, where that takes no time, as small batches
say little of the seconds of large ones.
"""

from __future__ import annotations

import functools
import math
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from align.engine.allocator import LARGEST_KEPT
from align.engine.meter import Meter

Call: TypeAlias = Callable[[Tensor, Meter], Tensor]
"""A part, called with some rows; the meter counts its operations."""

How: TypeAlias = Literal["measured", "derived"]
"""Whether the call was real, or made of tensors that have a shape and no numbers."""

_SLOW: Final = 1.0  # seconds; where a first call takes more, few others follow
_SLOWEST: Final = 5.0  # seconds; one that takes more is not
_QUICK: Final = 0.1  # seconds; a call that takes less is timed again with more rows
_SIZES: Final = (1, 4, 16, 64, 256, 1024)  # rows
_FEW: Final = (2, 4)  # rows of slow calls
_LONGEST: Final = 4.0  # seconds of a call with rows that make large tensors
_SHARE: Final = 0.1  # of what all calls of an arm take, that such a call may take
_MOST: Final = 2 << 30  # bytes of all tensors of such a call
_SEARCHED: Final = 1 << 30


@final
@attrs.frozen
class Use:
    """How a run uses a part: the most rows at once, and rows in all."""

    at_once: int = 64
    in_all: float = 0.0


@final
@attrs.frozen
class Linear:
    """A quantity of a call with some rows: fixed + slope · rows."""

    fixed: float = 0.0
    slope: float = 0.0

    @classmethod
    def through(cls, few: tuple[int, float], many: tuple[int, float]) -> Linear:
        """The line through two measurements (rows, quantity), neither part of it below 0."""
        (a, x), (b, y) = few, many
        slope = max(0.0, (y - x) / (b - a))
        if slope * b > y:  # a first call is slow; all of it belongs to the rows
            slope = y / b
        return cls(max(0.0, y - slope * b), slope)

    def of(self, rows: float) -> float:
        """The quantity of a call with so many rows; nothing for none."""
        return self.fixed + self.slope * rows if rows else 0.0


@final
@attrs.frozen(kw_only=True)
class PassCost:
    """Cost of a call, forward alone or forward and backward.

    Attributes:
        peak: bytes that are in memory at once, beyond weights, input and what was there before.
        kept: bytes that the result keeps, with its graph where there is one.
        seconds: duration; nothing where it is derived.
        flops: floating-point operations, of the forward pass alone.
        made: bytes a row of each tensor that is made on a CPU and was not large when the call was
            timed. Where it is, the system gives it new pages each time.
    """

    peak: Linear
    kept: Linear
    seconds: Linear = Linear()
    flops: Linear = Linear()
    made: tuple[float, ...] = ()

    def duration(self, rows: float) -> float:
        """Seconds of a call with so many rows."""
        anew = sum(size * rows for size in self.made if size * rows >= LARGEST_KEPT)
        return self.seconds.of(rows) + (anew * page_seconds() if anew else 0.0)


@final
@attrs.frozen(kw_only=True)
class PartCost:
    """Cost of a part.

    Attributes:
        forward: of a call without a graph.
        way_back: of a call with one and its backward pass; None where no gradient passes, or none
            was asked for.
        asked: whether a way back was asked for.
        how: whether the part was called, or derived from shapes.
        row_shape: shape of one row of its result.
    """

    forward: PassCost
    way_back: PassCost | None
    asked: bool
    how: How
    row_shape: tuple[int, ...] = ()

    def serves(self, gradient: bool) -> bool:
        """Whether it says what a call with a way back, or without one, costs."""
        return self.asked or not gradient

    def cost(self, *, gradient: bool) -> PassCost:
        """With a way back or without; without, where no gradient passes."""
        return self.way_back if gradient and self.way_back else self.forward


@final
class LivingBytes(TorchDispatchMode):
    """Adds up the storages that live and were made since it was entered; the same for fake tensors.

    What kernels take for themselves while they compute is not seen.

    Attributes:
        now: bytes that live.
        peak: the most that did at once.
        made: bytes of each that was made, in turn.
    """

    now: int = 0
    peak: int = 0

    if TYPE_CHECKING:  # torch says no types of it

        def __init__(self) -> None: ...

    @functools.cached_property
    def made(self) -> list[int]:
        """See the class."""
        return []

    @functools.cached_property
    def _known(self) -> dict[int, weakref.ref[torch.UntypedStorage]]:
        return {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The result of an operation, whose storages are counted where they are new."""
        named = dict(kwargs or {})
        for tensor in _tensors((args, named)):
            self._see(tensor, new=False)
        result = func(*args, **named)
        for tensor in _tensors(result):
            self._see(tensor, new=True)
        return result

    def _see(self, tensor: Tensor, *, new: bool) -> None:
        if tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes() if new else 0
        if key in self._known:
            return

        def gone(_: object) -> None:
            self._known.pop(key, None)
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
        if size:
            self.made.append(size)


def _tensors(tree: object) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def part_cost(
    call: Call,
    inputs: Callable[[int], Tensor],
    *,
    gradient: bool,
    how: How = "measured",
    use: Use | None = None,
) -> PartCost:
    """Call a part a few times and say what it costs.

    Args:
        call: the part.
        inputs: makes so many rows that it can be called with.
        gradient: whether it is asked to be differentiated too.
        how: "derived" where tensors are fake: nothing is timed then.
        use: what the run asks of it, by which it is timed.
    """
    use = use or Use()
    forward, few = _pass_cost(call, inputs, False, how, use)
    way_back = None
    if gradient:
        cost, followed = _pass_cost(call, inputs, True, how, use)
        way_back = cost if followed.has_graph else None
    return PartCost(
        forward=forward, way_back=way_back, asked=gradient, how=how, row_shape=few.row_shape
    )


def _pass_cost(
    call: Call, inputs: Callable[[int], Tensor], gradient: bool, how: How, use: Use
) -> tuple[PassCost, _Pass]:
    """One pass with one row and with two, and what the latter looked like."""
    few, many = (_Pass.watched(call, inputs(rows), gradient) for rows in (1, 2))
    made, seconds, last = _made(few.made, many.made), Linear(), 0
    if how == "measured":
        seconds, last = _seconds(call, inputs, gradient, many, made, use)
    cost = PassCost(
        peak=Linear.through((1, few.peak), (2, many.peak)),
        kept=Linear.through((1, few.kept), (2, many.kept)),
        seconds=seconds,
        flops=Linear(0.0, many.flops / 2),
        made=tuple(size for size in made if size * last < LARGEST_KEPT) if last else (),
    )
    return cost, many


def _made(one: Sequence[int], two: Sequence[int]) -> tuple[float, ...]:
    """Bytes a row of the tensors of a call, which were seen with one row and with two."""
    if len(one) != len(two):
        return tuple(size / 2 for size in two)
    return tuple(float(b - a) for a, b in zip(one, two, strict=True) if b > a)


@functools.cache
def page_seconds() -> float:
    """Seconds a byte that large memory costs on this CPU: the system gives and takes its pages."""
    times = list[float]()
    for _ in range(3):
        began = time.perf_counter()
        torch.zeros(2 * LARGEST_KEPT, dtype=torch.uint8).add_(1)
        times.append(time.perf_counter() - began)
        kept = torch.zeros(2 * LARGEST_KEPT, dtype=torch.uint8)
        began = time.perf_counter()
        kept.zero_().add_(1)
        times[-1] -= time.perf_counter() - began
    return max(0.0, min(times)) / (2 * LARGEST_KEPT)


def _seconds(
    call: Call,
    inputs: Callable[[int], Tensor],
    gradient: bool,
    warm: _Pass,
    made: Sequence[float],
    use: Use,
) -> tuple[Linear, int]:
    """Duration by rows, and the most rows that it was measured with.

    It is what two rows took and what four did; where that is quick, more of them. A last call has
    as many rows as make tensors large, if these are large in the run and the call is short beside
    it.
    """
    if warm.seconds > _SLOWEST:
        return Linear(0.0, warm.seconds / 2), 2
    slow, measured = warm.seconds > _SLOW, list[tuple[int, float]]()
    for rows in _FEW if slow else _SIZES:
        if slow and measured and rows > min(use.at_once, _SHARE * use.in_all):
            break
        if len(measured) > 1 and (rows > use.at_once or measured[-1][1] > _QUICK):
            break
        took = min(_timed(call, inputs(rows), gradient) for _ in range(1 if slow else 2))
        measured.append((rows, took))
    seconds, last = _through(measured), measured[-1][0]
    large = sorted(size for size in made if last * size < LARGEST_KEPT <= use.at_once * size)
    if large:  # well beyond the least, for which freed memory may have room
        rows = math.ceil(1.5 * LARGEST_KEPT / large[len(large) // 2])
        expected, whole = seconds.of(rows), seconds.slope * use.in_all
        affordable = expected < min(_LONGEST, _SHARE * whole) and rows * sum(made) < _MOST
        if affordable and rows <= use.at_once:
            measured.append((rows, _timed(call, inputs(rows), gradient)))
            return _through(measured), rows
    return seconds, last


def _through(measured: Sequence[tuple[int, float]]) -> Linear:
    """The line through the last two measurements (rows, seconds), or through 0 and the only one."""
    return Linear.through(*([(0, 0.0), *measured][-2:]))


@final
@attrs.frozen
class _Pass:
    """What one call took; see `PassCost`."""

    peak: int
    kept: int
    seconds: float
    flops: float
    row_shape: tuple[int, ...]
    has_graph: bool
    made: tuple[int, ...]

    @classmethod
    def watched(cls, call: Call, x: Tensor, gradient: bool) -> _Pass:
        """Of one call, whose storages and operations are counted."""
        meter, cuda = Meter(), x.device.type == "cuda"
        _wait_for(x.device)
        before = torch.cuda.memory_allocated(x.device) if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats(x.device)
        began = time.perf_counter()
        with LivingBytes() as living, torch.set_grad_enabled(gradient):
            result = call(x.requires_grad_(gradient), meter)
            kept = torch.cuda.memory_allocated(x.device) - before if cuda else living.now
            flops, has_graph = meter.flops + meter.rewards.flops, result.requires_grad
            _back(result, x)
        _wait_for(x.device)
        seconds = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated(x.device) - before if cuda else living.peak
        made = () if cuda else tuple(living.made)
        return cls(peak, kept, seconds, flops, tuple(result.shape[1:]), has_graph, made)


def _timed(call: Call, x: Tensor, gradient: bool) -> float:
    """Seconds of one call, which nobody watches."""
    _wait_for(x.device)
    began = time.perf_counter()
    with torch.set_grad_enabled(gradient):
        _back(call(x.requires_grad_(gradient), Meter()), x)
    _wait_for(x.device)
    return time.perf_counter() - began


def _back(result: Tensor, x: Tensor) -> None:
    """The way back from a result to its input, where there is one."""
    if result.requires_grad:
        torch.autograd.grad(result.sum(), x, allow_unused=True)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bytes_of(costs: Iterable[PartCost], rows: int, *, gradient: bool) -> float:
    """The most bytes that rows need on their way through parts one after the other.

    With a gradient all parts before the last keep their graphs while the last is differentiated.
    """
    kept = peak = 0.0
    for part in costs:
        cost = part.cost(gradient=gradient)
        peak = max(peak, kept + cost.peak.of(rows))
        kept += cost.kept.of(rows) if gradient else 0.0
    return peak


def rows_within(free: float, needed: Callable[[int], float]) -> int:
    """The most rows, at least 1, for which no more bytes are `needed` than there are."""
    low, high = 1, 2
    while high < _SEARCHED and needed(high) <= free:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= free else (low, middle)
    return low
