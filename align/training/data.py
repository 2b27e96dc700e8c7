"""Labelled pictures for training, from a folder or a tar archive."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import final

import attrs
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from align.core.option import option
from align.core.streams import Streams
from align.errors import PartError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


@final
@attrs.frozen(kw_only=True)
class Pictures:
    """Pictures laid out as .../<split>/<class>/<file>, all of one size."""

    path: str = option("folder, or tar archive, of <split>/<class>/<picture>")
    split: str = option("folder above the classes", default="train")
    mirror: bool = option("also train on left-right mirrored pictures", default=True)


@final
@attrs.frozen(eq=False)
class Labelled:
    """Pictures (R, C, H, W), uint8, the class of each (R,), and the classes' names."""

    pictures: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pictures)


def load(data: Pictures, colours: int, classes: tuple[str, ...] = ()) -> Labelled:
    """Read all pictures of the split, sorted by name, with 1 or 3 `colours`.

    A folder's name is that of its class, but for capitals and with "_" for " ".

    Raises:
        PartError: the path has no such pictures, or they are not all of one size, or they have
            other classes than `classes` (when that is given), or one of them cannot be read.
    """
    source = Path(data.path)
    if not source.exists():
        raise PartError(f"data: no file or folder '{source}'; see how to get it in recipes/pocket")
    entries = sorted(_archive(source, data.split) if source.is_file() else _folder(source, data))
    if not entries:
        raise PartError(f"data: '{source}' has no pictures in <...>/{data.split}/<class>/")
    found = {_plain(name) for name, _, _ in entries}
    names = classes or tuple(sorted(found))
    number = {_plain(name): index for index, name in enumerate(names)}
    if found != set(number):
        odd = ", ".join(sorted(found ^ set(number)))
        raise PartError(f"data: the classes of '{source}' differ from the model's in: {odd}")
    arrays = [_picture(*entry, colours) for entry in entries]
    if len({a.shape for a in arrays}) > 1:
        raise PartError(f"data: the pictures of '{source}' are not all of one size")
    labels = torch.tensor([number[_plain(name)] for name, _, _ in entries])
    return Labelled(torch.from_numpy(np.stack(arrays)), labels, names)


def order(streams: Streams, rows: int, places: Tensor) -> Tensor:
    """Which of `rows` rows stand at these `places` (b,) of training: (b,).

    Epoch after epoch, each in its own random order.
    """
    out = torch.empty_like(places)
    for epoch in places.div(rows, rounding_mode="floor").unique().tolist():
        one = attrs.evolve(streams, samples=(0,), first=()).at("epoch", epoch)
        mine = places.div(rows, rounding_mode="floor") == epoch
        out[mine] = one.uniform((rows,))[0].argsort().cpu()[places[mine] % rows]
    return out


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")


def _archive(path: Path, split: str) -> Iterator[tuple[str, str, bytes]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                stream = archive.extractfile(member) if _wanted(place, split) else None
                if stream is not None:
                    yield place.parent.name, place.name, stream.read()
    except tarfile.TarError as error:
        raise PartError(f"data: '{path}' is not a tar archive: {error}") from error


def _folder(path: Path, data: Pictures) -> Iterator[tuple[str, str, bytes]]:
    for file in path.rglob("*"):
        place = PurePosixPath(file.relative_to(path).as_posix())
        if _wanted(PurePosixPath(path.name) / place, data.split):
            yield file.parent.name, file.name, file.read_bytes()


def _wanted(place: PurePosixPath, split: str) -> bool:
    return place.suffix.lower() in SUFFIXES and place.parent.parent.name == split


def _picture(label: str, name: str, content: bytes, colours: int) -> np.ndarray:
    try:
        picture = Image.open(io.BytesIO(content)).convert("L" if colours == 1 else "RGB")
    except OSError as error:
        raise PartError(f"data: '{label}/{name}' is not a picture: {error}") from error
    return np.asarray(picture).reshape(*picture.size[::-1], colours).transpose(2, 0, 1)
