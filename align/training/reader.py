"""The pictures of training's rows, read before they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import dropwhile
from typing import Final, final

import attrs
import torch
from torch import Tensor

from align.core.dataset import Dataset, DatasetSpec, opened
from align.core.errors import PartError
from align.core.streams import Streams
from align.training.data import AT_ONCE, batches, chunks, loaded, order

IN_MEMORY: Final = 1 << 30
"""Bytes of pictures up to which all of them are kept in memory."""


@final
@attrs.define(eq=False)
class Reader:
    """Pictures of rows of training.

    A set that is small enough is kept in memory. Of a larger one, worker processes read the rows
    that come next; what a row shows depends on (seed, row) alone, with or without workers.

    Args:
        dataset: the pictures.
        workers: number of processes.
        in_memory: all pictures (R, C, H, W), if they are kept.
    """

    dataset: Dataset
    workers: int
    in_memory: Tensor | None = None
    _ahead: Iterator[tuple[tuple[int, ...], Tensor]] = attrs.field(factory=lambda: iter(()))

    @classmethod
    def of(cls, data: DatasetSpec, colours: int) -> Reader:
        """Find the pictures, and read them all if that is not too much.

        Raises:
            PartError: there are none, or the data are no pictures.
        """
        if data.domain == "vector":
            raise PartError(f"data: pictures are needed here, and '{data.kind}' has vectors")
        dataset = opened(data, colours)
        small = len(dataset) * torch.Size(dataset.shape).numel() <= IN_MEMORY
        return cls(dataset, data.workers, loaded(dataset, data.workers) if small else None)

    def read(self, rows: Streams) -> Tensor:
        """Pictures (b, C, H, W), uint8, of the rows of training that `rows` numbers."""
        numbers = _numbers(rows, len(self.dataset))
        if self.in_memory is None:
            return self.dataset.rows(numbers.tolist())
        return self.in_memory[numbers]

    def read_next(self, rows: Streams, coming: Callable[[], Iterable[Streams]]) -> Tensor:
        """As `read`; workers then go on with the rows after these in `coming()`.

        Rows may be asked for in pieces of any size, as long as they are those of `coming()`.
        """
        if self.in_memory is not None or not self.workers:
            return self.read(rows)
        samples, pictures = next(self._ahead, ((), None))
        if pictures is None or samples != rows.samples:
            later = dropwhile(lambda piece: piece.samples != rows.samples, coming())
            self._ahead = _reading(self.dataset, self.workers, later)
            samples, pictures = next(self._ahead, ((), None))
        return self.read(rows) if pictures is None else pictures

    def chunks(self, size: int = AT_ONCE) -> Iterator[Tensor]:
        """All pictures, `size` at a time."""
        if self.in_memory is not None:
            return iter(self.in_memory.split(size))
        return (chunk for _, chunk in chunks(self.dataset, self.workers, size))


# Not a method: a reader that is let go must end its workers at once, and a method's `self` would
# leave that to the garbage collector.
def _reading(
    dataset: Dataset, workers: int, coming: Iterable[Streams]
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    requested: deque[tuple[int, ...]] = deque()

    def numbers() -> Iterator[list[int]]:
        for piece in coming:
            requested.append(piece.samples)
            yield _numbers(piece, len(dataset)).tolist()

    for pictures in batches(dataset, numbers(), workers):
        yield requested.popleft(), pictures


def _numbers(rows: Streams, count: int) -> Tensor:
    """Which of `count` rows of a set these rows of training are."""
    return order(rows.fold_in("order"), count, torch.tensor(rows.samples))
