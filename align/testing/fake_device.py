"""A device that is not the CPU, for tests on machines that have no other.

Its tensors say that they are on "meta" and keep their numbers in the CPU's memory. What mixes them
with tensors of the CPU raises an error, as on a GPU; everything else gives what the CPU gives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final, final
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE: Final = torch.device("meta")
_CPU: Final = torch.device("cpu")
_ATEN: Final = torch.ops.aten
_COPIES: Final = frozenset({_ATEN._to_copy, _ATEN.copy_})
# Places may be on the CPU where what they point into is not.
_INDEXED: Final = frozenset(
    {
        _ATEN.index,
        _ATEN.index_put,
        _ATEN.index_put_,
        _ATEN._unsafe_index,
        _ATEN._index_put_impl_,
        _ATEN._unsafe_index_put,
    }
)


@contextmanager
def fake_device() -> Iterator[torch.device]:
    """The device, which is there as long as the context is. Half precision is left out on it."""
    half, overwrite = torch.autocast, torch.__future__.get_overwrite_module_params_on_conversion()

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == DEVICE.type else half(device_type, *args, **kwargs)

    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            warnings.catch_warnings(),
            mock.patch.object(torch, "autocast", autocast),
            _Made(),
            _Dispatched(),
        ):
            # What torch says of tensors without numbers is not so of these.
            warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
            yield DEVICE
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


@final
class FakeDeviceTensor(Tensor):
    """A tensor on the other device, whose numbers are `here`."""

    here: Tensor

    def __new__(cls, here: Tensor) -> FakeDeviceTensor:
        """Say that `here` is on the other device."""
        made: FakeDeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )
        made.here = here
        return made

    def tolist(self) -> list[Any]:
        """The numbers."""
        return self.here.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As a tensor of the CPU, which is how checkpoints are read."""
        return self.here.__reduce_ex__(protocol)

    def __repr__(self, *_: Any) -> str:  # type: ignore[override]
        return f"There({self.here})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Do it to the numbers."""
        return _called(func, args, kwargs or {})


@final
class _Dispatched(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        return _called(func, args, kwargs or {})


@final
class _Made(TorchFunctionMode):
    """What makes tensors of Python's numbers; it puts them on a device out of reach of dispatch."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is Tensor.new_tensor and isinstance(args[0], FakeDeviceTensor):
            return torch.tensor(args[1], dtype=args[0].dtype).to(DEVICE)
        return func(*args, **kwargs)


def _called(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Do it on the CPU, and put what comes of it where it belongs."""
    packet, device = func.overloadpacket, kwargs.get("device")
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    there = any(isinstance(one, FakeDeviceTensor) for one in tensors)
    if there and packet not in _COPIES:
        _refuse_mixture(func, [*args[:1], *args[2:]] if packet in _INDEXED else tensors)
    if not there and device != DEVICE:
        return func(*args, **kwargs)
    moved = kwargs if device is None else {**kwargs, "device": _CPU}
    found = func(*tree_map(_here, args), **tree_map(_here, moved))
    if func._schema.is_mutable:
        changed = kwargs.get("out", args[0] if args else None)
        return changed if isinstance(found, Tensor) else found
    if packet is _ATEN._to_copy and device not in (None, DEVICE):
        return found
    return tree_map(lambda one: FakeDeviceTensor(one) if isinstance(one, Tensor) else one, found)


def _refuse_mixture(func: Any, values: Any) -> None:
    """Raise RuntimeError where a tensor of the CPU is among the others; single numbers may be."""
    for one in tree_leaves(values):
        if isinstance(one, Tensor) and not isinstance(one, FakeDeviceTensor) and one.dim():
            raise RuntimeError(f"{func}: a tensor {tuple(one.shape)} is on the CPU, others are not")


def _here(value: Any) -> Any:
    return value.here if isinstance(value, FakeDeviceTensor) else value
