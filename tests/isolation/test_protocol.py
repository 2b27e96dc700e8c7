"""What crosses comes out as it went in, and what is no message is refused."""

import io
import math
import struct

import pytest
import torch

from align.isolation.protocol import LARGEST, Message, packed, receive

TYPES = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)
SHAPES = ((), (0,), (3,), (2, 0, 4), (2, 3, 4), (1, 1, 1, 1, 2))


def crossed(*messages):
    stream = io.BytesIO(b"".join(map(packed, messages)))
    found = [receive(stream) for _ in messages]
    assert receive(stream) is None
    return found


@pytest.mark.parametrize("dtype", TYPES)
def test_tensors_of_every_type_and_shape(dtype):
    sent = {}
    for number, shape in enumerate(SHAPES):
        count = math.prod(shape)
        sent[str(number)] = (torch.arange(count) - 2).reshape(shape).to(getattr(torch, dtype))
    (found,) = crossed(Message("some", sent))
    assert found.type == "some" and found.tensors.keys() == sent.keys()
    for name, x in sent.items():
        assert found.tensors[name].dtype == x.dtype and torch.equal(found.tensors[name], x)


def test_bits_survive():
    x = torch.tensor([math.nan, -0.0, math.inf, -math.inf, 5e-324, 0.1], dtype=torch.float64)
    (found,) = crossed(Message("bits", {"x": x}))
    assert torch.equal(found.tensors["x"].view(torch.int64), x.view(torch.int64))


def test_tensors_that_are_views_of_others():
    x = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    views = {"turned": x.T, "part": x[1], "spread": x[:1].expand(5, 4)}
    (found,) = crossed(Message("views", views))
    assert all(torch.equal(found.tensors[name], view) for name, view in views.items())
    assert not found.tensors["turned"].requires_grad


def test_words_survive():
    payload = {
        "prompts": ["", "a “cat”\n\x00", "猫 🐈"],
        "low": -math.inf,
        "deep": {"x": [1, None, 0.1]},
    }
    found, empty = crossed(Message("words", payload=payload), Message(""))
    assert found.payload == payload and not found.tensors
    assert (empty.type, dict(empty.payload)) == ("", {})


def test_the_end_within_a_message():
    whole = packed(Message("some", {"x": torch.ones(3)}))
    for length in (9, len(whole) - 1):
        with pytest.raises(EOFError):
            receive(io.BytesIO(whole[:length]))
    with pytest.raises(ValueError, match="cannot have"):
        receive(io.BytesIO(struct.pack("<Q", LARGEST + 1) + b"1234"))


def test_a_size_is_bounded_before_anything_is_read(monkeypatch):
    with pytest.raises(ValueError, match="cannot have"):
        receive(io.BytesIO(b"Loading weights: 100%"))
    monkeypatch.setattr("align.isolation.protocol.LARGEST", 100)
    assert packed(Message("few"))
    with pytest.raises(ValueError, match="larger than 100"):
        packed(Message("many", {"x": torch.ones(100)}))


@pytest.mark.parametrize("body", [b"", b"\0" * 8, b"not a message", b"\x02" + b"\0" * 7 + b"{}"])
def test_malformed_message_is_refused(body):
    with pytest.raises(ValueError, match="not a message"):
        receive(io.BytesIO(struct.pack("<Q", len(body)) + body))
