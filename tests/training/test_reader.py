"""Pictures of rows of training: the same with or without workers, from any row on."""

import gc
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from align.core.errors import PartError
from align.core.streams import Streams
from align.datasets.pictures import Pictures
from align.training import data, reader
from align.training.data import load
from align.training.loop import Optimisation, pieces
from align.training.reader import Reader

OPTIONS, STREAMS, STEPS = Optimisation(batch=8, grad_accumulation=2), Streams(0, (0,)), 4


@pytest.fixture
def pictures(tmp_path):
    """Eleven pictures, each of a grey of its own."""
    place = tmp_path / "train/grey"
    place.mkdir(parents=True)
    for k in range(11):
        Image.fromarray(np.full((4, 4, 3), k, dtype=np.uint8)).save(place / f"{k:02}.png")
    return tmp_path


@pytest.fixture
def unkept(monkeypatch):
    """As if no set were small enough to be kept in memory."""
    monkeypatch.setattr(reader, "IN_MEMORY", 0)


def coming(first):
    """The pieces from step `first` on."""
    return (piece for step in range(first, STEPS) for piece in pieces(OPTIONS, STREAMS, step))


def levels(made, first=0):
    """The greys of all rows from step `first` on, as training asks for them."""
    seen = []
    for step in range(first, STEPS):
        for piece in pieces(OPTIONS, STREAMS, step):
            seen.append(made.read_next(piece, lambda step=step: coming(step))[:, 0, 0, 0])
    return torch.cat(seen).tolist()


def test_workers_and_memory_make_no_difference(pictures, monkeypatch):
    started, batches = [], data.batches
    monkeypatch.setattr(reader, "batches", lambda *a: started.append(a[2]) or batches(*a))
    kept = Reader.of(Pictures(path=str(pictures)), 3)
    assert kept.in_memory.shape == (11, 3, 4, 4)
    expected = levels(kept)
    assert sorted(expected[:11]) == list(range(11))
    monkeypatch.setattr(reader, "IN_MEMORY", 0)
    alone = Reader.of(Pictures(path=str(pictures)), 3)
    assert alone.in_memory is None
    assert levels(alone) == expected
    helped = Reader.of(Pictures(path=str(pictures), workers=2), 3)
    assert levels(helped) == expected
    # The workers were started once, and read on from there.
    assert started == [2]


def test_a_resumed_run_begins_at_its_own_rows(pictures, unkept, monkeypatch):
    asked, order = [], reader.order
    note = lambda _, rows, places: asked.extend(places.tolist()) or order(_, rows, places)  # noqa: E731
    monkeypatch.setattr(reader, "order", note)
    expected = levels(Reader.of(Pictures(path=str(pictures)), 3))
    asked.clear()
    assert levels(Reader.of(Pictures(path=str(pictures), workers=1), 3), 2) == expected[16:]
    assert asked == list(range(16, 32))


def test_a_process_may_see_its_share_alone(pictures, unkept):
    """Rows need not be consecutive, and others may be asked for in between."""
    whole = Reader.of(Pictures(path=str(pictures)), 3)
    helped = Reader.of(Pictures(path=str(pictures), workers=1), 3)
    mine = [Streams(0, tuple(range(8 * step, 8 * step + 8, 2))) for step in range(3)]
    for step, piece in enumerate(mine):
        found = helped.read_next(piece, lambda step=step: mine[step:])
        assert torch.equal(found, whole.read(piece))
        other = Streams(0, (5, 1))
        assert torch.equal(helped.read(other), whole.read(other))
    # Not among those that come: read all the same.
    assert torch.equal(helped.read_next(other, lambda: mine), whole.read(other))


def test_all_pictures_in_chunks(pictures, monkeypatch):
    expected = load(Pictures(path=str(pictures)), 3).pictures
    for most in (reader.IN_MEMORY, 0):
        monkeypatch.setattr(reader, "IN_MEMORY", most)
        found = list(Reader.of(Pictures(path=str(pictures)), 3).chunks(4))
        assert [len(chunk) for chunk in found] == [4, 4, 3]
        assert torch.equal(torch.cat(found), expected)


def test_an_error_in_a_worker_is_one_clear_line(pictures, unkept):
    made = Reader.of(Pictures(path=str(pictures), workers=1), 3)
    (pictures / "train/grey/07.png").write_bytes(b"nothing")
    with pytest.raises(PartError) as caught:
        levels(made)
    lines = str(caught.value).splitlines()
    assert lines == [f"data: '{pictures}/train/grey/07.png' is not a picture: unknown format"]


def test_a_set_can_be_sent_to_a_new_process(pictures):
    found = Pictures(path=str(pictures)).open(3)
    assert torch.equal(pickle.loads(pickle.dumps(found)).rows([3, 1]), found.rows([3, 1]))


def test_workers_end_with_their_reader(pictures, unkept):
    made = Reader.of(Pictures(path=str(pictures), workers=1), 3)
    made.read_next(next(coming(0)), lambda: coming(0))
    assert multiprocessing.active_children()
    gc.disable()
    try:
        del made
        assert not multiprocessing.active_children()
    finally:
        gc.enable()
