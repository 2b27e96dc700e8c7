"""The pictures of training's rows, read before they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import dropwhile
from typing import final

import attrs
import torch
from torch import Tensor

from align.core.streams import Streams
from align.training.data import Pictures, PictureSet, batches, chunks, find, loaded, order

KEPT = 1 << 30
"""Bytes of pictures up to which all of them are kept in memory."""


@final
@attrs.define(eq=False)
class Reader:
    """Pictures of rows of training.

    A set that is small enough is kept in memory. Of a larger one, worker processes read the rows
    that come next; what a row shows depends on (seed, row) alone, with or without workers.

    Args:
        pictures: the set.
        workers: number of processes.
        kept: all pictures (R, C, H, W), if they are kept.
    """

    pictures: PictureSet
    workers: int
    kept: Tensor | None = None
    _ahead: Iterator[tuple[tuple[int, ...], Tensor]] = attrs.field(factory=lambda: iter(()))

    @classmethod
    def of(cls, data: Pictures, colours: int) -> Reader:
        """Find the pictures, and read them all if that is not too much."""
        found = find(data, colours)
        few = len(found) * torch.Size(found.shape).numel() <= KEPT
        return cls(found, data.workers, loaded(found, data.workers) if few else None)

    def read(self, rows: Streams) -> Tensor:
        """Pictures (b, C, H, W), uint8, of the rows of training that `rows` numbers."""
        chosen = _chosen(rows, len(self.pictures))
        return self.pictures.rows(chosen.tolist()) if self.kept is None else self.kept[chosen]

    def read_next(self, rows: Streams, coming: Callable[[], Iterable[Streams]]) -> Tensor:
        """As `read`; workers then go on with the rows after these in `coming()`.

        Rows may be asked for in pieces of any size, as long as they are those of `coming()`.
        """
        if self.kept is not None or not self.workers:
            return self.read(rows)
        samples, found = next(self._ahead, ((), None))
        if found is None or samples != rows.samples:
            later = dropwhile(lambda piece: piece.samples != rows.samples, coming())
            self._ahead = _reading(self.pictures, self.workers, later)
            samples, found = next(self._ahead, ((), None))
        return self.read(rows) if found is None else found

    def chunks(self, size: int = 256) -> Iterator[Tensor]:
        """All pictures, `size` at a time."""
        if self.kept is not None:
            return iter(self.kept.split(size))
        return (chunk for _, chunk in chunks(self.pictures, self.workers, size))


# Not a method: a reader that is let go must end its workers at once, and a method's `self` would
# leave that to the garbage collector.
def _reading(
    pictures: PictureSet, workers: int, coming: Iterable[Streams]
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    asked: deque[tuple[int, ...]] = deque()

    def wanted() -> Iterator[list[int]]:
        for piece in coming:
            asked.append(piece.samples)
            yield _chosen(piece, len(pictures)).tolist()

    for found in batches(pictures, wanted(), workers):
        yield asked.popleft(), found


def _chosen(rows: Streams, count: int) -> Tensor:
    return order(rows.fold_in("order"), count, torch.tensor(rows.samples))
