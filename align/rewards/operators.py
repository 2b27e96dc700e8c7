"""What a measurement sees of a picture: linear maps A, one class each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, TypeAlias, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from align.core.errors import PartError
from align.core.option import above, at_least, option


@attrs.frozen(kw_only=True)
class Operator(ABC):
    """A linear map of pictures to what is observed of them, the same in every channel."""

    kind: ClassVar[str]

    @abstractmethod
    def apply(self, pictures: Tensor) -> Tensor:
        """A x, (B, C, ...), of pictures (B, C, H, W); raises PartError for a size it cannot see."""

    @abstractmethod
    def show(self, observed: Tensor, height: int, width: int) -> Tensor:
        """What was observed of one picture, (C, ...), as a picture (C, H, W) to look at."""


def _box(_: Any, attribute: attrs.Attribute[Any], value: tuple[int, int, int, int]) -> None:
    top, left, bottom, right = value
    if not (0 <= top < bottom and 0 <= left < right):
        text = "must be [top, left, bottom, right] in pixels, with top < bottom and left < right"
        raise ValueError(f"'{attribute.name}' {text}, got {list(value)}")


@final
@attrs.frozen(kw_only=True)
class Inpaint(Operator):
    """Sees every pixel but those of a box: rows top ≤ i < bottom, columns left ≤ j < right."""

    kind: ClassVar[str] = "inpaint"

    box: tuple[int, int, int, int] = option(
        "hidden box, [top, left, bottom, right] in pixels; row bottom and column right are seen",
        check=_box,
    )

    def apply(self, pictures: Tensor) -> Tensor:
        """The pixels that are seen, (B, C, K)."""
        return pictures[..., self._visible(*pictures.shape[-2:]).to(pictures.device)]

    def show(self, observed: Tensor, height: int, width: int) -> Tensor:
        """The pixels in their places, and grey where nothing is seen."""
        shown = observed.new_full((len(observed), height, width), 0.5)
        shown[:, self._visible(height, width).to(observed.device)] = observed
        return shown

    def _visible(self, height: int, width: int) -> Tensor:
        """Which pixels are seen, (H, W)."""
        top, left, bottom, right = self.box
        if bottom > height or right > width:
            text = f"the box {list(self.box)} does not lie within the picture's {height} rows"
            raise PartError(f"operator 'inpaint': {text} and {width} columns")
        visible = torch.ones(height, width, dtype=torch.bool)
        visible[top:bottom, left:right] = False
        if not visible.any():
            raise PartError("operator 'inpaint': the box hides the whole picture")
        return visible


@final
@attrs.frozen(kw_only=True)
class Downsample(Operator):
    """Sees the mean of every block of pixels; to undo it is super-resolution."""

    kind: ClassVar[str] = "downsample"

    factor: int = option("side of a block, in pixels", check=at_least(1))

    def apply(self, pictures: Tensor) -> Tensor:
        """Means of blocks, (B, C, H / factor, W / factor)."""
        height, width = pictures.shape[-2:]
        if height % self.factor or width % self.factor:
            text = f"{height}x{width} pixels do not divide into blocks of side {self.factor}"
            raise PartError(f"operator 'downsample': {text}")
        return F.avg_pool2d(pictures, self.factor)

    def show(self, observed: Tensor, height: int, width: int) -> Tensor:
        """Every mean as a block."""
        return observed.repeat_interleave(self.factor, 1).repeat_interleave(self.factor, 2)


@final
@attrs.frozen(kw_only=True)
class Blur(Operator):
    """Sees the picture through a Gaussian, cut at four standard deviations."""

    kind: ClassVar[str] = "blur"

    std: float = option("standard deviation of the Gaussian, in pixels", check=above(0))
    padding: Literal["reflect", "zero"] = option(
        "pixels beyond the edge: 'reflect' mirrors the picture about its outermost ones",
        default="reflect",
    )

    def apply(self, pictures: Tensor) -> Tensor:
        """Blurred pictures (B, C, H, W)."""
        height, width = pictures.shape[-2:]
        reach = int(4 * self.std + 0.5)
        if self.padding == "reflect" and reach >= min(height, width):
            text = f"'reflect' needs more than {reach} pixels a side at std {self.std:g}"
            raise PartError(f"operator 'blur': {text}, got {height}x{width}; use 'zero'")
        places = torch.arange(-reach, reach + 1, device=pictures.device, dtype=pictures.dtype)
        kernel = torch.softmax(-0.5 * (places / self.std) ** 2, 0)
        mode = "reflect" if self.padding == "reflect" else "constant"
        padded = F.pad(pictures.flatten(0, 1)[:, None], [reach] * 4, mode=mode)
        rows = F.conv2d(padded, kernel[None, None, :, None])
        return F.conv2d(rows, kernel[None, None, None, :]).reshape(pictures.shape)

    def show(self, observed: Tensor, height: int, width: int) -> Tensor:
        """What was observed is a picture already."""
        return observed


AnyOperator: TypeAlias = Inpaint | Downsample | Blur
