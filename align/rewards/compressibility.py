"""How well a picture compresses, or how badly: rewards without a gradient."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import ClassVar, final

import attrs
import torch
from PIL import Image
from torch import Tensor

from align.core.model import Domain
from align.core.option import between, option
from align.core.reward import Repeatable, Reward, RewardSpec


@final
@attrs.frozen(kw_only=True)
class Compressibility(RewardSpec, Repeatable):
    """Pictures that make small JPEG files; has no gradient.

    Minus the size of the picture as a JPEG file, in kilobytes (1000 bytes).

    Reference: Training Diffusion Models with Reinforcement Learning, Black et al., 2023,
    arXiv:2305.13301, section 5.1.
    """

    kind: ClassVar[str] = "compressibility"
    differentiable: ClassVar[bool] = False
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (-float("inf"), 0.0)

    quality: int = option(
        "quality of the JPEG file, from 1 to 100", default=95, check=between(1, 100)
    )

    def build(self, device: torch.device) -> Reward:
        """The reward; there is nothing to load."""
        return _Kilobytes(self.quality, -1)


@final
@attrs.frozen(kw_only=True)
class Incompressibility(RewardSpec, Repeatable):
    """Pictures that make large JPEG files; has no gradient.

    The size of the picture as a JPEG file, in kilobytes (1000 bytes).

    Reference: Training Diffusion Models with Reinforcement Learning, Black et al., 2023,
    arXiv:2305.13301, section 5.1.
    """

    kind: ClassVar[str] = "incompressibility"
    differentiable: ClassVar[bool] = False
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))

    quality: int = option(
        "quality of the JPEG file, from 1 to 100", default=95, check=between(1, 100)
    )

    def build(self, device: torch.device) -> Reward:
        """The reward; there is nothing to load."""
        return _Kilobytes(self.quality, 1)


@final
@attrs.frozen
class _Kilobytes(Reward):
    quality: int
    sign: int

    @torch.no_grad()
    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Kilobytes (B,), signed, of pictures (B, C, H, W) in [0, 1]."""
        pictures = data.expand(-1, 3, -1, -1).clamp(0, 1).mul(255).round().byte()
        sizes = [self._size(picture) for picture in pictures.cpu()]
        return torch.tensor([self.sign * size / 1000 for size in sizes], device=data.device)

    def _size(self, picture: Tensor) -> int:
        """Bytes of one picture (3, H, W) as a JPEG file."""
        buffer = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "jpeg", quality=self.quality)
        return buffer.tell()
