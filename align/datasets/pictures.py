"""Pictures with classes: in a folder, in a tar archive, or in WebDataset shards."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import attrs
import numpy as np
import torch
from loguru import logger
from PIL import Image, ImageOps
from torch import Tensor

from align.core.dataset import Dataset, DatasetSpec
from align.core.errors import PartError
from align.core.model import Domain
from align.core.option import at_least, between, option
from align.datasets.sources import Index, index, signature
from align.io.images import decoded


@final
@attrs.frozen(kw_only=True)
class Pictures(DatasetSpec):
    """Pictures in a folder or an archive, or their latents.

    Pictures with classes, in files that Pillow reads; or latents that were made of them.
    """

    kind: ClassVar[str] = "pictures"

    path: str = option(
        "folder or tar archive of <split>/<class>/<picture>, or WebDataset shards, "
        "'x-{000..099}.tar' or 'x-*.tar'",
        default="",
        path=True,
    )
    split: str = option("folder above the classes; shards have none", default="train")
    mirror: bool = option("whether training also sees pictures mirrored left-right", default=True)
    size: int = option(
        "side of the squares that pictures are scaled and cut to; 0 leaves them",
        default=0,
        check=at_least(0),
        grows="pixels",
    )
    workers: int = option(
        "processes that read pictures ahead; 0 reads in the main process",
        default=0,
        check=between(0, 1024),
    )
    latents: str = option(
        "folder that keeps the latents of the pictures; without 'path', the data themselves",
        default="",
        path="kept",
    )

    def __attrs_post_init__(self) -> None:
        if not (self.path or self.latents):
            raise ValueError("expected 'path', or 'latents', a folder that has them already")

    @property
    def domain(self) -> Domain | None:
        """Pictures, unless there are only latents."""
        return "image" if self.path else None

    @property
    def name(self) -> str:
        """The path, or the folder of latents."""
        return self.path or self.latents

    def open(self, colours: int) -> PictureSet:
        """Find the pictures; only the first of them is read.

        What lies beside them and is left out is counted in a notice.

        Raises:
            PartError: there are none, or none of a class, or the first cannot be read.
        """
        if not self.path:
            raise PartError(
                f"data: pictures are needed here, not only '{self.latents}'; set 'path'"
            )
        places = index(self.path, self.split)
        if places.left_out:
            notice = logger.bind(notice=True)
            notice.warning("data: '{}': left out {}", self.path, places.left_out)
        channels, height, width = read(places, 0, colours, self.size).shape
        return PictureSet(places, (channels, height, width), self.size)

    def fingerprint(self) -> Mapping[str, Any]:
        """Names and sizes of the files as a digest, and the options that change pictures."""
        if not self.path:
            return {}
        files = signature(self.path, self.split)
        return {"files": files, "split": self.split, "mirror": self.mirror, "size": self.size}


@final
@attrs.frozen(eq=False)
class PictureSet(Dataset):
    """R pictures of one `shape` (C, H, W), scaled and cut to squares of side `size` if that is set.

    Attributes:
        places: where each picture lies, and its class.
    """

    places: Index
    shape: tuple[int, int, int]
    size: int

    @property
    def labels(self) -> Tensor:
        """The class of each picture, (R,)."""
        return torch.from_numpy(self.places.labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none where the files name them by numbers."""
        return self.places.classes

    def __len__(self) -> int:
        return len(self.places.files)

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """Pictures (b, C, H, W), uint8.

        Raises:
            PartError: one of them cannot be read, or has another size than the first of the set.
        """
        pictures = [read(self.places, row, self.shape[0], self.size) for row in numbers]
        for row, picture in zip(numbers, pictures, strict=True):
            if picture.shape != self.shape:
                raise self._unequal(row, picture.shape)
        # Colours innermost: convolutions then take a sixth less time.
        batch = torch.from_numpy(np.stack(pictures))
        return batch.contiguous(memory_format=torch.channels_last)

    def row_name(self, number: int) -> str:
        """The picture's file, and its archive if it is in one."""
        return _name(self.places, number)

    def _unequal(self, row: int, shape: tuple[int, ...]) -> PartError:
        sizes = [
            f"'{self.places.names[number]}' has {width} x {height}"
            for number, (_, height, width) in ((0, self.shape), (row, shape))
        ]
        return PartError(
            f"data: the pictures are not all of one size: {sizes[0]}, {sizes[1]}; set 'size'"
        )


def read(places: Index, row: int, colours: int, size: int) -> np.ndarray:
    """One picture (C, H, W), uint8, cut to a square of side `size` unless that is 0.

    Raises:
        PartError: it cannot be read.
    """
    start, count = places.spans[row].tolist()
    try:
        with Path(places.files[row]).open("rb") as file:
            file.seek(start)
            content = io.BytesIO(file.read(count))
        picture = decoded(content, _name(places, row))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise PartError(f"data: {_name(places, row)} cannot be read: {reason}") from error
    except PartError as error:
        raise PartError(f"data: {error}") from error
    picture = picture.convert("L" if colours == 1 else "RGB")
    if size:
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(*picture.size[::-1], colours).transpose(2, 0, 1)


def _name(places: Index, row: int) -> str:
    name, file = places.names[row], places.files[row]
    return f"'{name}'" if name == file else f"'{name}' in '{file}'"
