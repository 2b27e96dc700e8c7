"""What crosses between two interpreters: messages, each a file of safetensors.

A pipe carries a length and so many bytes; HTTP carries the bytes as a body.

Tensors cross as they are; everything else is JSON in the file's metadata. Nothing is unpickled, so
that neither side can run code on the other, and their versions of Python and torch may differ.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import IO, Any, Final, final

import attrs
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from align.core.prompts import ReadsPrompts
from align.core.reward import Compares, HasReferenceImages, Quadratic, RewardSpec

VERSION: Final = 7
LARGEST: Final = 1 << 34  # bytes of a message; more is no message but noise
PROMISES: Final = tuple(
    name for name, value in vars(RewardSpec).items() if isinstance(value, property)
)
"""What a specification of a reward declares, by its contract: the facts that cross."""
CAPABILITIES: Final[Mapping[str, type]] = MappingProxyType(
    {cls.__name__: cls for cls in (Compares, HasReferenceImages, Quadratic, ReadsPrompts)}
)
"""What a reward may be able to do beside scoring; each is one method."""
_LENGTH: Final = struct.Struct("<Q")


@final
@attrs.frozen(eq=False)
class Message:
    """A request or a reply.

    Attributes:
        type: what it is: "read", "build", "score", "vjp", ..., or "error".
        tensors: of any type that safetensors has, and any shape.
        payload: what JSON can hold.
    """

    type: str
    tensors: Mapping[str, Tensor] = MappingProxyType({})
    payload: Mapping[str, Any] = MappingProxyType({})


def method_of(capability: str) -> str:
    """The one method of a capability."""
    names: frozenset[str] = getattr(CAPABILITIES[capability], "__abstractmethods__")  # noqa: B009
    return min(names)


def to_body(message: Message) -> bytes:
    """A message as bytes."""
    tensors = {name: x.detach().cpu().contiguous() for name, x in message.tensors.items()}
    metadata = {"type": message.type, "payload": json.dumps(dict(message.payload))}
    return save(tensors, metadata)


def from_body(body: bytes) -> Message:
    """The message that these bytes are; raises ValueError where they are none."""
    try:
        size = int.from_bytes(body[:8], "little")
        metadata = json.loads(body[8 : 8 + size])["__metadata__"]
        payload = json.loads(metadata["payload"])
        if not isinstance(payload, dict):
            raise TypeError("the payload is no table")
        return Message(metadata["type"], load(body), payload)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a message: {error}") from error


def packed(message: Message) -> bytes:
    """A message as it goes into a pipe; raises ValueError for one larger than any may be."""
    body = to_body(message)
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
    return from_body(body)
