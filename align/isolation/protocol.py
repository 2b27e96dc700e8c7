"""What crosses between two interpreters: a length, and so many bytes of safetensors.

Tensors cross as they are; everything else is JSON in the file's metadata. Nothing is unpickled, so
that neither side can run code on the other, and their versions of Python and torch may differ.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import IO, Any, Final, final

import attrs
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from align.errors import AlignError

VERSION: Final = 1
LARGEST: Final = 1 << 34  # bytes of a message; more is no message but noise
_LENGTH: Final = struct.Struct("<Q")


@final
@attrs.frozen(eq=False)
class Message:
    """A request or a reply.

    Attributes:
        word: what it is.
        tensors: of any type that safetensors has, and any shape.
        said: what JSON can hold.
    """

    type: str
    tensors: Mapping[str, Tensor] = MappingProxyType({})
    said: Mapping[str, Any] = MappingProxyType({})


@final
class ConfigRejected(AlignError):
    """A reward's table is wrong; carries (key, text) for every problem found."""

    def __init__(self, faults: Iterable[tuple[tuple[str | int, ...], str]]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(text for _, text in self.faults))


def packed(message: Message) -> bytes:
    """A message as it is written; raises ValueError for one that is larger than any may be."""
    tensors = {name: x.detach().cpu().contiguous() for name, x in message.tensors.items()}
    body = save(tensors, {"word": message.type, "said": json.dumps(dict(message.said))})
    if len(body) > LARGEST:
        raise ValueError(f"a message of {len(body)} bytes is larger than {LARGEST}")
    return _LENGTH.pack(len(body)) + body


def receive(stream: IO[bytes]) -> Message | None:
    """Read a message; None at the end of the stream.

    Raises:
        EOFError: the stream ends within a message.
        ValueError: what comes is not a message.
    """
    head = stream.read(_LENGTH.size)
    if not head:
        return None
    (length,) = _LENGTH.unpack(head) if len(head) == _LENGTH.size else (LARGEST,)
    if length > LARGEST:
        raise ValueError(f"a message cannot have {length} bytes")
    body = stream.read(length)
    if len(body) < length:
        raise EOFError("a message ends early")
    try:
        size = int.from_bytes(body[:8], "little")
        said = json.loads(body[8 : 8 + size])["__metadata__"]
        return Message(said["word"], load(body), json.loads(said["said"]))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a message: {error}") from error
