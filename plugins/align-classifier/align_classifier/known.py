"""What is known of a classifier once it is loaded: its network, its eyes and its classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, final

import attrs
import torch.nn.functional as F
from torch import Tensor, nn

from align import PartError, did_you_mean
from align.io.images import standardised

WHO: Final = "reward 'classifier'"


@final
@attrs.frozen(kw_only=True)
class Preprocessing:
    """How pictures are brought to what a network sees; the graph is kept.

    Attributes:
        resize: height and width, or the shorter side; None for as it is.
        mode: how resizing interpolates, antialiased.
        crop: height and width of the middle that is seen; None for all. Black is put around
            pictures that are smaller.
        floored: whether the middle lies at (H − h) // 2, or at round((H − h) / 2).
        mean, std: what is subtracted from each channel, and what it is then divided by.
    """

    resize: tuple[int, int] | int | None
    mode: Literal["bilinear", "bicubic"]
    crop: tuple[int, int] | None
    floored: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def apply(self, pictures: Tensor) -> Tensor:
        """What the network sees of pictures (B, 3, H, W) in [0, 1]."""
        seen = self._cropped(self._resized(pictures))
        return standardised(seen, self.mean, self.std)

    def _resized(self, pictures: Tensor) -> Tensor:
        size, (height, width) = self.resize, pictures.shape[-2:]
        if isinstance(size, int):
            short = min(height, width)
            size = (size * height // short, size * width // short)
        if size is None or size == (height, width):
            return pictures
        # Bicubic interpolation overshoots at edges.
        return F.interpolate(pictures, size, mode=self.mode, antialias=True).clamp(0, 1)

    def _cropped(self, pictures: Tensor) -> Tensor:
        if self.crop is None:
            return pictures
        height, width = (
            side - own for side, own in zip(pictures.shape[-2:], self.crop, strict=True)
        )
        top, left = (gap // 2 if self.floored else round(gap / 2) for gap in (height, width))
        return F.pad(pictures, (-left, left - width, -top, top - height))


@final
@attrs.frozen(eq=False)
class Known:
    """A classifier.

    Attributes:
        network: logits (B, K) of what `preprocessing` makes, or an output that has them.
        labels: names of classes by their numbers, as far as they are known.
        classes: their number K.
    """

    network: nn.Module
    preprocessing: Preprocessing
    labels: Mapping[int, str]
    classes: int


def numbered(label: str, labels: Mapping[int, str], classes: int) -> int:
    """The number of a class given by its number, its name, or one of several names of it.

    Names are compared without case; "tabby, tabby cat" are two names of one class.

    Raises:
        PartError: no class, or more than one, has this name.
    """
    wanted = _plain(label)
    if wanted.isdecimal():
        if int(wanted) < classes:
            return int(wanted)
        raise PartError(f"{WHO}: label: there are classes 0 to {classes - 1}, not {wanted}")
    whole = [number for number, name in labels.items() if _plain(name) == wanted]
    parts = [k for k, name in labels.items() if wanted in map(_plain, name.split(","))]
    found = whole or parts
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(f"{number} ('{labels[number]}')" for number in found)
        raise PartError(f"{WHO}: label: '{label}' names several classes, {several}; give a number")
    names = [name for name in labels.values() if not _plain(name).startswith("label ")]
    if not names:
        cure = f"its configuration names no classes; give a number from 0 to {classes - 1}"
        raise PartError(f"{WHO}: label: no class '{label}': {cure}")
    known = did_you_mean(label, names)
    if len(names) > _MANY and not known.endswith("?"):
        known = f"its configuration names {len(names)} others, like '{names[0]}'"
    raise PartError(f"{WHO}: label: no class '{label}'; {known}")


_MANY: Final = 30


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())
