"""Labelled pictures for training: read one by one or in batches, in a random order."""

from __future__ import annotations

import io
import math
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import final

import attrs
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from align.core.option import at_least, option
from align.core.streams import Streams
from align.errors import PartError
from align.training.sources import Index, index

LAYOUT = torch.channels_last


@final
@attrs.frozen(kw_only=True)
class Pictures:
    """Pictures with classes: files, or latents made of them."""

    path: str = option(
        "folder or tar archive of <split>/<class>/<picture>, or WebDataset shards, "
        "'x-{000..099}.tar' or 'x-*.tar'",
        default="",
    )
    split: str = option("folder above the classes; shards have none", default="train")
    mirror: bool = option("also train on left-right mirrored pictures", default=True)
    size: int = option(
        "side of the squares that pictures are scaled and cut to; 0 leaves them",
        default=0,
        check=at_least(0),
    )
    workers: int = option(
        "processes that read pictures; 0 is none beside the main one", default=0, check=at_least(0)
    )
    latents: str = option(
        "folder that keeps the latents of pictures; without 'path', all there is", default=""
    )

    def __attrs_post_init__(self) -> None:
        if not (self.path or self.latents):
            raise ValueError("expected 'path', or 'latents', a folder that has them already")


@final
@attrs.frozen(eq=False)
class PictureSet(Dataset[Tensor | PartError]):
    """R pictures of one `shape` (C, H, W), read when they are asked for."""

    index: Index
    shape: tuple[int, int, int]
    size: int

    def __len__(self) -> int:
        return len(self.index.files)

    def __getitem__(self, rows: list[int]) -> Tensor | PartError:
        """Pictures (b, C, H, W), uint8; an error is returned, so that it may cross processes."""
        try:
            pictures = [read(self.index, row, self.shape[0], self.size) for row in rows]
            for row, picture in zip(rows, pictures, strict=True):
                if picture.shape != self.shape:
                    raise _unequal(self.index, row, picture.shape, self.shape)
        except PartError as error:
            return error
        # Colours innermost: convolutions then take a sixth less time.
        return torch.from_numpy(np.stack(pictures)).contiguous(memory_format=LAYOUT)

    def rows(self, rows: list[int]) -> Tensor:
        """Pictures (b, C, H, W), uint8.

        Raises:
            PartError: one of them cannot be read, or has another size than the first of the set.
        """
        return _sound(self[rows])


@final
@attrs.frozen(eq=False)
class Labelled:
    """Pictures (R, C, H, W), uint8, the class of each (R,), and the classes' names."""

    pictures: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pictures)


def find(data: Pictures, colours: int, classes: tuple[str, ...] = ()) -> PictureSet:
    """The pictures of `data`, with 1 or 3 `colours`; of them all the first alone is read.

    Raises:
        PartError: there are none, or they have other classes than `classes` (when that is given).
    """
    if not data.path:
        raise PartError(f"data: pictures are needed here, not only '{data.latents}'; set 'path'")
    found = index(data.path, data.split, classes)
    channels, height, width = read(found, 0, colours, data.size).shape
    return PictureSet(found, (channels, height, width), data.size)


def load(data: Pictures, colours: int, classes: tuple[str, ...] = ()) -> Labelled:
    """Read all pictures of `data` into memory, sorted by name; see `find`.

    Raises:
        PartError: as `find`; one of them cannot be read, or they are not all of one size.
    """
    found = find(data, colours, classes)
    pictures = loaded(found, data.workers)
    return Labelled(pictures, torch.from_numpy(found.index.labels), found.index.classes)


def loaded(found: PictureSet, workers: int) -> Tensor:
    """All pictures (R, C, H, W), uint8; raises as `batches`."""
    shape = len(found), *found.shape
    pictures = torch.empty(shape, dtype=torch.uint8, memory_format=LAYOUT)
    for first, chunk in chunks(found, workers):
        pictures[first : first + len(chunk)] = chunk
    return pictures


def chunks(pictures: PictureSet, workers: int, size: int = 256) -> Iterator[tuple[int, Tensor]]:
    """All pictures, `size` at a time, and the number of the first of them."""
    firsts = range(0, len(pictures), size)
    wanted = (list(range(first, min(first + size, len(pictures)))) for first in firsts)
    yield from zip(firsts, batches(pictures, wanted, workers), strict=True)


def batches(pictures: PictureSet, wanted: Iterable[list[int]], workers: int) -> Iterator[Tensor]:
    """Pictures (b, C, H, W) of each list of rows, in turn, read ahead by `workers` processes.

    Raises:
        PartError: a picture cannot be read, or has another size than the first of the set.
    """
    loader = DataLoader(
        pictures,
        batch_size=None,
        sampler=wanted,
        num_workers=workers,
        worker_init_fn=_undisturbed,
        pin_memory=torch.cuda.is_available(),
    )
    # A loader that begins draws a seed from the global generator, which is not ours to move.
    yield from map(_sound, Streams(0, ()).initialise(lambda: iter(loader)))


def read(found: Index, row: int, colours: int, size: int) -> np.ndarray:
    """One picture (C, H, W), uint8.

    Raises:
        PartError: it cannot be read.
    """
    start, count = found.spans[row].tolist()
    try:
        with Path(found.files[row]).open("rb") as file:
            file.seek(start)
            content = io.BytesIO(file.read(count))
        picture = Image.open(content).convert("L" if colours == 1 else "RGB")
    except Exception as error:  # of any kind: what a broken file raises depends on its format
        name = f"'{found.names[row]}'"
        name += "" if found.names[row] == found.files[row] else f" in '{found.files[row]}'"
        why = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise PartError(f"data: {name} is not a picture: {why}") from error
    if size:
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(*picture.size[::-1], colours).transpose(2, 0, 1)


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


def _sound(found: Tensor | PartError) -> Tensor:
    if isinstance(found, PartError):
        raise found
    return found


def _unequal(found: Index, row: int, odd: tuple[int, ...], shape: tuple[int, ...]) -> PartError:
    sizes = [f"'{found.names[k]}' has {w} x {h}" for k, (_, h, w) in ((0, shape), (row, odd))]
    return PartError(
        f"data: the pictures are not all of one size: {sizes[0]}, {sizes[1]}; set 'size'"
    )


def _undisturbed(_: int) -> None:
    """Let Ctrl-C end a run after its step, which still needs the pictures."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
