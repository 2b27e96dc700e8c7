"""Rows of a data set for training: in batches, in a random order, read ahead by processes."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias, final

import attrs
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from align.core.dataset import Dataset, DatasetSpec, opened, plain_name
from align.core.errors import PartError
from align.core.streams import Streams

AT_ONCE: Final = 256
"""Rows that are read at a time."""

NumbersOf: TypeAlias = Callable[[Sequence[str]], Sequence[int]]
"""Numbers of a model's classes that names of a data set's classes mean."""


@final
@attrs.frozen(eq=False)
class Labelled:
    """Pictures (R, C, H, W), uint8, the class of each (R,), and the classes' names."""

    pictures: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pictures)


def load(data: DatasetSpec, colours: int, classes: tuple[str, ...] = ()) -> Labelled:
    """Read all pictures of `data` into memory; their labels count through `classes`, if given.

    Raises:
        PartError: they cannot be read, or they have other classes than `classes`.
    """
    dataset = opened(data, colours)
    labels = labels_of(dataset, data.name, classes)
    return Labelled(loaded(dataset, data.workers), labels, classes or dataset.classes)


def labels_of(
    dataset: Dataset, name: str, classes: tuple[str, ...], numbers_of: NumbersOf | None = None
) -> Tensor:
    """The class of each row (R,), int64, counted through `classes`; as they are if that is empty.

    Args:
        dataset: has the labels.
        name: what messages call it.
        classes: names, such as those of a model's classes.
        numbers_of: see `renumbered`.

    Raises:
        PartError: the classes of the data set are not these.
    """
    labels = dataset.labels.to(torch.int64)
    if not classes:
        return labels
    if dataset.classes:
        return renumbered(labels, dataset.classes, classes, name, numbers_of)
    for row in torch.nonzero((labels < 0) | (labels >= len(classes)))[:1, 0].tolist():
        raise PartError(
            f"data: class {int(labels[row])} of {dataset.row_name(row)} is out of range:"
            f" the model's {len(classes)} classes are counted from 0"
        )
    return labels


def renumbered(
    labels: Tensor,
    names: Sequence[str],
    classes: tuple[str, ...],
    owner: str,
    numbers_of: NumbersOf | None = None,
) -> Tensor:
    """Labels (R,) that count through `names` as labels that count through `classes`.

    With `numbers_of`, that says which class each name means. Names may then be others, and some
    classes may have no rows.

    Raises:
        PartError: the names are not those of the classes, capitals and "_" for " " aside.
    """
    if numbers_of is not None:
        try:
            return torch.tensor(numbers_of(names))[labels]
        except ValueError as error:
            raise PartError(f"data: classes of '{owner}': {error}") from error
    number = {plain_name(name): k for k, name in enumerate(classes)}
    plain = [plain_name(name) for name in names]
    if set(plain) != set(number):
        odd = ", ".join(sorted(set(plain) ^ set(number)))
        raise PartError(f"data: the classes of '{owner}' differ from the model's in: {odd}")
    return torch.tensor([number[name] for name in plain])[labels]


def loaded(dataset: Dataset, workers: int) -> Tensor:
    """All rows (R, *S); raises as `batches`."""
    rows: Tensor | None = None
    for first, chunk in chunks(dataset, workers):
        if rows is None:
            layout = torch.channels_last if chunk.dim() == 4 else torch.contiguous_format
            shape = (len(dataset), *chunk.shape[1:])
            rows = torch.empty(shape, dtype=chunk.dtype, memory_format=layout)
        rows[first : first + len(chunk)] = chunk
    assert rows is not None, "a data set without rows does not open"
    return rows


def chunks(dataset: Dataset, workers: int, size: int = AT_ONCE) -> Iterator[tuple[int, Tensor]]:
    """All rows, `size` at a time, and the number of the first of them."""
    firsts = range(0, len(dataset), size)
    numbers = (list(range(first, min(first + size, len(dataset)))) for first in firsts)
    yield from zip(firsts, batches(dataset, numbers, workers), strict=True)


def batches(dataset: Dataset, numbers: Iterable[list[int]], workers: int) -> Iterator[Tensor]:
    """The rows (b, *S) of each list of numbers, in turn, read ahead by `workers` processes.

    Raises:
        PartError: a row cannot be read.
    """
    loader: DataLoader[Any] = DataLoader(
        _Readable(dataset),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        worker_init_fn=_ignore_interrupts,
        pin_memory=torch.cuda.is_available(),
    )
    # A loader that begins draws a seed from the global generator, which is not ours to move.
    for rows in Streams(0, ()).initialise(lambda: iter(loader)):
        if isinstance(rows, PartError):
            raise rows
        yield rows


@final
@attrs.frozen(eq=False)
class _Readable(TorchDataset[Any]):
    """A data set for torch's loader; an error is returned, so that it may cross processes."""

    dataset: Dataset

    def __getitem__(self, numbers: list[int]) -> Tensor | PartError:
        try:
            return self.dataset.rows(numbers)
        except PartError as error:
            return error


def order(streams: Streams, rows: int, places: Tensor) -> Tensor:
    """Which of `rows` rows stand at these `places` (b,) of training: (b,).

    Epoch after epoch, each in a random order of its own, of which only the places are computed: by
    a Feistel network on a grid just large enough, walked on from where it leaves the rows.

    Reference: Ciphers with Arbitrary Finite Domains, Black, Rogaway, 2002,
    doi:10.1007/3-540-45760-7_9, sections 4 and 5.
    """
    streams = attrs.evolve(streams, device=torch.device("cpu"), first=())
    width = math.isqrt(rows - 1) + 1 if rows > 1 else 1
    height = -(-rows // width)

    def mixed(turn: int, epochs: Tensor, values: Tensor, bound: int) -> Tensor:
        numbers = tuple((epochs << 32 | values).tolist())
        uniform = attrs.evolve(streams, samples=numbers).fold_in("turn", turn).uniform(())
        return (uniform * bound).long()

    epochs, out = places.div(rows, rounding_mode="floor"), places % rows
    todo = torch.arange(len(out))
    while len(todo):
        epoch, high, low = epochs[todo], out[todo] // width, out[todo] % width
        for turn in (0, 2, 4):
            high = (high + mixed(turn, epoch, low, height)) % height
            low = (low + mixed(turn + 1, epoch, high, width)) % width
        out[todo] = high * width + low
        todo = todo[out[todo] >= rows]
    return out


def _ignore_interrupts(_: int) -> None:
    """Let Ctrl-C end a run after its step, which still needs the rows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
