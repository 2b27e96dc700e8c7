"""Tensors with a table beside them in one file, which knows whether it is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import IO, Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_ALIGNED: Final = 8  # bytes that a header's length is a multiple of
_NAMES: Final[Mapping[torch.dtype, str]] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


def packed(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """Tensors and a table of JSON values, as `unpacked` reads them."""
    text = json.dumps(about)
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    whole = torch.tensor(list(_digest(text, plain)), dtype=torch.uint8)
    return save({**plain, "digest": whole}, {"about": text})


def unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The table and the tensors; None where these are not the bytes that were packed."""
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = json.loads(text := header["__metadata__"]["about"])
        digested = tensors.pop("digest")
        if bytes(digested.tolist()) == _digest(text, tensors) and isinstance(about, dict):
            return about, tensors
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _digest(text: str, tensors: Mapping[str, Tensor]) -> bytes:
    """SHA-256 of the table and of the tensors."""
    whole = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.digest()


def write_rows(file: IO[bytes], name: str, pieces: Iterable[Tensor], rows: int) -> None:
    """Write one tensor (rows, ...) as safetensors, of pieces of its rows that come in turn.

    Args:
        file: to write to.
        name: of the tensor.
        pieces: (n, ...) each, with all but n the same.
        rows: of all pieces together.

    Raises:
        ValueError: the pieces have another number of rows, or other shapes or types.
    """
    like, written = None, 0
    for piece in pieces:
        plain = piece.detach().cpu().contiguous()
        if like is None:
            like = plain[:0]
            file.write(_header(name, plain, rows))
        if (plain.dtype, plain.shape[1:]) != (like.dtype, like.shape[1:]):
            raise ValueError(f"rows of '{name}' are {plain.dtype} {tuple(plain.shape[1:])}")
        file.write(plain.flatten().view(torch.uint8).numpy().tobytes())
        written += len(plain)
    if written != rows:
        raise ValueError(f"'{name}' has {written} rows, expected {rows}")


def _header(name: str, like: Tensor, rows: int) -> bytes:
    """The first bytes of a file of safetensors with one tensor (rows, ...)."""
    shape = [rows, *like.shape[1:]]
    size = like.element_size() * int(np.prod(shape))
    entry = {"dtype": _NAMES[like.dtype], "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({name: entry}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text
