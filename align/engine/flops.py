"""Floating-point operations, counted as they are executed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Final, final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# Questions about a tensor's layout, which the tensor answers itself.
_LAYOUT: Final = frozenset(
    f"aten::{name}"
    for name in (
        "dim",
        "is_contiguous",
        "is_contiguous.memory_format",
        "is_non_overlapping_and_dense",
        "is_strides_like_format",
        "numel",
        "size",
        "storage_offset",
        "stride",
        "sym_is_contiguous",
        "sym_numel",
        "sym_size",
        "sym_storage_offset",
        "sym_stride",
    )
) | {"prim::layout"}


@contextmanager
def counted() -> Iterator[FlopCounter]:
    """Count the operations of what is computed in this context.

    What is compiled is computed as it was written, since a compiler merges operations.
    """
    written: AbstractContextManager[object] = nullcontext()
    if "torch._dynamo" in sys.modules:  # else nothing is compiled, and asking would import it
        written = torch.compiler.set_stance("force_eager")
    with written, FlopCounter() as counter:
        yield counter


@contextmanager
def uncounted() -> Iterator[None]:
    """Nobody counts what is computed in this context."""
    before, FlopCounter.pausing = FlopCounter.pausing, True
    try:
        yield
    finally:
        FlopCounter.pausing = before


@final
class FlopCounter(TorchDispatchMode):
    """Counts operations, forward and backward, by torch's table of formulas.

    Its numbers are those of torch's `FlopCounterMode`. That one also tells modules apart, and its
    first use imports torch's compiler, which takes longer than a small run.

    Attributes:
        total: operations so far; a multiplication and an addition are two.
    """

    supports_higher_order_operators = True
    pausing: ClassVar[bool] = False

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch else wraps the method below by its compiler, to keep that from looking inside."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Execute one operation, in its parts where it has no formula of its own."""
        options = kwargs or {}
        if isinstance(func, torch._ops.HigherOrderOperator):
            return self._counted(func, func, args, options)
        if func.name() in _LAYOUT:
            return NotImplemented
        if func.name() != "prim::device":
            with self:
                result = func.decompose(*args, **options)
            if result is not NotImplemented:
                return result
        return self._counted(func, func.overloadpacket, args, options)

    def _counted(
        self, func: Any, operation: Any, args: Sequence[Any], options: Mapping[str, Any]
    ) -> Any:
        result = func(*args, **options)
        if operation in flop_registry and not self.pausing:
            self.total += int(flop_registry[operation](*args, **options, out_val=result))
        return result
