"""Rows at once: what fits, what is measured, and what happens where memory runs out."""

import itertools
import weakref

import attrs
import pytest
import torch
from loguru import logger

from align.core.checks import checks, checks_read_once
from align.core.chunks import Chunks, fitting, is_out_of_memory
from align.core.errors import ContractError, NotFiniteError, OutOfMemoryError, PartError

SHORT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@attrs.define
class Room:
    """Memory of `size` bytes, in which a call takes `fixed` and `row` for each of its rows."""

    size: float
    row: float = 1.0
    fixed: float = 0.0
    asked: list = attrs.field(factory=list)

    def free(self):
        return self.size

    def taken(self, call):
        rows = call()
        self.asked.append(rows.stop - rows.start)
        return self.fixed + self.row * self.asked[-1]


@attrs.define
class Part:
    """Returns the slice that it is given; more rows than `most` are too many."""

    most: int = 1 << 30
    error: BaseException = SHORT
    seen: list = attrs.field(factory=list)

    def __call__(self, rows):
        size = rows.stop - rows.start
        self.seen.append(size)
        if size > self.most:
            raise self.error
        return rows


@pytest.fixture
def told():
    lines = []
    logger.enable("align")
    sink = logger.add(lambda line: lines.append(line.record["message"]), level="WARNING")
    yield lines
    logger.remove(sink)
    logger.disable("align")


def ends(pieces):
    return [rows.stop for rows in pieces]


@pytest.mark.parametrize(
    ("fixed", "row", "room", "rows"),
    [
        (0, 1, 1e9, 64),
        (0, 1, 64 / 0.75, 64),
        (0, 1, 63 / 0.75, 32),
        (10, 2, 42 / 0.75, 16),
        (10, 2, 41 / 0.75, 8),
        (1e9, 1, 5, 1),
        (-50, 1, 64 / 0.75, 64),
        (5, -1, 100, 64),
        (0, 0, 0, 64),
    ],
)
def test_as_many_rows_are_taken_as_fit_into_three_quarters_of_the_memory(fixed, row, room, rows):
    assert fitting(64, fixed, row, room) == rows


def test_rows_of_a_cap_that_is_no_power_of_two_are_halved():
    assert [fitting(100, 0, 1, room / 0.75) for room in (100, 99, 49, 3, 0)] == [100, 50, 25, 3, 1]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 24])
def test_slices_cover_all_rows_in_order(count):
    pieces = Chunks(8).cut("part", count, lambda rows: list(range(count))[rows])
    assert list(itertools.chain(*pieces)) == list(range(count))
    assert max(map(len, pieces)) <= 8
    assert len(pieces) == max(1, -(-count // 8))


def test_what_fits_is_found_by_one_row_that_is_thrown_away():
    chunks, part = Chunks(8, Room(1e6)), Part()
    assert ends(chunks.cut("part", 20, part)) == [8, 16, 20]
    assert part.seen == [1, 8, 8, 4]
    assert ends(chunks.cut("part", 20, part)) == [8, 16, 20]
    assert part.seen[4:] == [8, 8, 4]
    assert chunks.rows == {"part": 8}


def test_where_one_row_leaves_doubt_two_rows_tell_what_is_fixed():
    room = Room(100, row=3, fixed=40)
    chunks, part = Chunks(64, room), Part()
    chunks.cut("part", 64, part)
    assert part.seen == [1, 2, 8, 8, 8, 8, 8, 8, 8, 8]  # 40 + 8 · 3 ≤ 75 < 40 + 16 · 3
    assert chunks.rows == {"part": 8}


def test_each_part_has_a_size_of_its_own():
    room = Room(100)
    chunks = Chunks(64, room)
    chunks.cut("light", 64, Part())
    room.row = 10
    chunks.cut("heavy", 64, Part())
    assert chunks.rows == {"light": 64, "heavy": 4}


def test_nothing_is_measured_of_a_single_row_or_of_a_graph_that_is_kept():
    room = Room(0)
    chunks = Chunks(4, room)
    assert ends(chunks.cut("part", 1, Part())) == [1]
    assert ends(chunks.cut("part", 6, Part(), kept=True)) == [4, 6]
    assert (room.asked, chunks.rows) == ([], {})


def test_what_is_asked_inside_a_measurement_is_not_measured():
    room = Room(1e6)
    chunks, inner, seen = Chunks(4, room), Part(), []

    def call(rows):
        seen.append(chunks.measuring)
        chunks.cut("inner", 3, inner)
        return rows

    chunks.cut("outer", 4, call)
    assert seen == [True, False]
    assert inner.seen == [3, 1, 3]
    assert set(chunks.rows) == {"outer", "inner"}


def test_a_measurement_moves_no_random_numbers():
    def call(rows):
        torch.randn(rows.stop - rows.start)
        return rows

    torch.manual_seed(0)
    Chunks(4).cut("part", 4, call)
    left = torch.randn(3)
    torch.manual_seed(0)
    Chunks(4, Room(1e6)).cut("part", 4, call)
    assert torch.equal(torch.randn(3), left)


def test_two_rows_that_are_too_many_to_be_measured_leave_one():
    chunks, part = Chunks(8, Room(0.5)), Part(most=1)
    assert ends(chunks.cut("part", 3, part)) == [1, 2, 3]
    assert not chunks.measuring


@pytest.mark.parametrize("few", [1, 2])
def test_a_part_that_fails_with_few_rows_alone_is_taken_with_the_cap(few):
    def call(rows):
        if rows.stop - rows.start <= few:
            raise ValueError("normalises over its rows")
        return rows

    chunks = Chunks(8, Room(0.5))
    assert ends(chunks.cut("part", 16, call)) == [8, 16]
    assert chunks.rows == {"part": 8}


def test_a_check_that_fails_for_a_measured_row_alone_is_not_the_step_s():
    def call(rows):
        spread = torch.arange(8.0)[rows].std()  # not a number for one row
        checks().add(lambda numbers: NotFiniteError("nan") if numbers[0] else None, spread.isnan())
        return rows

    with checks_read_once():
        assert ends(Chunks(4, Room(1e6)).cut("part", 8, call)) == [4, 8]


def test_one_row_too_many_for_a_measurement_says_what_to_change():
    with pytest.raises(OutOfMemoryError, match=r"part: .* too small for a single row"):
        Chunks(8, Room(1e6)).cut("part", 3, Part(most=0))


@pytest.mark.parametrize("error", [ContractError("no"), ValueError("no")])
def test_other_errors_of_a_measurement_are_the_part_s(error):
    chunks = Chunks(8, Room(0.5))
    with pytest.raises(type(error)):
        chunks.cut("part", 3, Part(most=1, error=error))
    assert not chunks.measuring


def test_an_earlier_run_s_rows_are_never_exceeded(told):
    chunks = Chunks(8, Room(1e6), before={"part": 2})
    assert ends(chunks.cut("part", 5, Part())) == [2, 4, 5]
    assert ends(chunks.cut("other", 5, Part())) == [5]
    assert told == []


def test_fewer_rows_than_in_an_earlier_run_are_told(told):
    chunks = Chunks(8, Room(2.7), before={"part": 4})
    chunks.cut("part", 5, Part())
    assert chunks.rows == {"part": 2}
    assert told == [
        "part: memory is too small now for 4 rows at once, as before; results differ by rounding"
    ]


@pytest.mark.parametrize("most", [1, 3, 4, 5, 31])
def test_rows_are_halved_where_memory_runs_out_and_nothing_is_lost(most, told):
    changes = []
    chunks = Chunks(32)
    chunks.changed = lambda: changes.append(dict(chunks.rows))
    pieces = chunks.cut("part", 70, Part(most))
    assert [rows.start for rows in pieces] == [0, *ends(pieces)[:-1]]
    assert ends(pieces)[-1] == 70
    found = chunks.rows["part"]
    assert most / 2 < found <= most
    assert changes[-1] == {"part": found}
    again = Part(most)
    chunks.cut("part", 70, again)
    assert max(again.seen) == found
    assert told[0] == ("part: memory is too small for 32 rows at once; from now on there are 16")
    assert len(told) == len(changes)


def test_what_a_failed_call_had_made_is_freed_before_the_next():
    made = []

    def call(rows):
        alive = [tensor() is not None for tensor in made]
        assert not any(alive)
        held = torch.ones(3)
        made.append(weakref.ref(held))
        if rows.stop - rows.start > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows

    assert ends(Chunks(8).cut("part", 4, call)) == [2, 4]


def test_one_row_too_many_says_what_to_change(told):
    with pytest.raises(OutOfMemoryError) as caught:
        Chunks(8).cut("part", 3, Part(most=0))
    assert str(caught.value) == (
        "part: the device's memory is too small for a single row; take a smaller model, reward or"
        " picture, weights of half their precision"
    )
    assert caught.value.__cause__ is SHORT


def test_a_graph_that_is_kept_is_not_cut_any_finer():
    part = Part(most=2)
    with pytest.raises(torch.OutOfMemoryError):
        Chunks(8).cut("part", 8, part, kept=True)
    assert part.seen == [8]


def caused(error):
    outer = PartError("sampler 'x' raised it")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (SHORT, True),
        (MemoryError(), True),
        (OutOfMemoryError("x"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:1] err == 0. DefaultCPUAllocator: can't"
                " allocate memory: you tried to allocate 8 bytes"
            ),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8"), True),
        (caused(SHORT), True),
        (caused(caused(MemoryError())), True),
        (caused(None), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (PartError("out of memory"), False),
        (None, False),
    ],
)
def test_errors_that_say_that_memory_is_too_small(error, short):
    assert is_out_of_memory(error) == short
