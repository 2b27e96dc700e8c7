"""Trained weights on disk: one safetensors file that says what it holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from align.core.errors import DivergedError, PartError
from align.io import files

FORMAT = "align-1"


def in_float32(tensors: Iterable[Tensor]) -> None:
    """Put those parameters or buffers in float32 that have less precision, in place."""
    for tensor in tensors:
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor.data = tensor.data.float()


def write(
    path: Path,
    modules: Mapping[str, nn.Module],
    about: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """Write modules side by side, each under its name, with `about` in the header.

    Args:
        path: the file.
        modules: by name.
        about: what the file says of itself, as JSON values.
        dtype: floating type of the weights in the file; None for that which they have.

    Raises:
        DivergedError: a weight is not finite, or not any more in `dtype`; buffers may be.
    """
    tensors: dict[str, Tensor] = {}
    storages = set[int]()
    for name, module in modules.items():
        buffers = dict(module.named_buffers(remove_duplicate=False))
        for key, tensor in module.state_dict().items():
            floating = dtype if tensor.is_floating_point() else None
            stored = tensor.detach().to("cpu", floating or tensor.dtype).contiguous()
            if stored.untyped_storage().data_ptr() in storages:  # safetensors takes no shared ones
                stored = stored.clone()
            storages.add(stored.untyped_storage().data_ptr())
            constant = key in buffers and not bool(tensor.isfinite().all())
            if not constant and not stored.isfinite().all():
                kind = str(stored.dtype).removeprefix("torch.")
                raise DivergedError(
                    f"weights: '{name}.{key}' has numbers that are not finite in {kind}, so that"
                    f" '{path}' is not written; train with a lower learning rate"
                )
            tensors[f"{name}.{key}"] = stored
    files.write(path, save(tensors, {"format": FORMAT, "about": json.dumps(about)}))


def about(path: Path) -> dict[str, Any]:
    """What a weights file says of itself; reads the header only.

    Raises:
        PartError: there is no such file, or it was not written by `write`.
    """
    with _opened(path) as file:
        header = file.metadata() or {}
    if header.get("format") != FORMAT:
        raise PartError(f"weights: '{path}' was not written by align (format '{FORMAT}')")
    try:
        found: dict[str, Any] = dict(json.loads(header["about"]))
    except (ValueError, KeyError, TypeError) as error:
        raise PartError(
            f"weights: '{path}' is damaged: what it says of itself is not whole"
        ) from error
    return found


def _opened(path: Path) -> safe_open:
    if not path.is_file():
        raise PartError(f"weights: no file '{path}'; a training run writes it at its end")
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise PartError(f"weights: '{path}' is not a safetensors file: {error}") from error


def read(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """Fill modules from a weights file, in their own types; it may hold other modules too.

    Raises:
        PartError: there is no such file, or names or shapes of a module's tensors in it are not
            exactly those of the module.
    """
    with _opened(path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for name, module in modules.items():
        mine = {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + ".")}
        try:
            module.load_state_dict(mine, strict=True)
        except RuntimeError as error:
            reason = str(error).split("\n\t")[1]
            raise PartError(f"weights: '{path}' does not fit its own '{name}': {reason}") from error
