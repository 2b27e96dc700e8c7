"""An autoencoder whose decoder enlarges by turning channels into pixels."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, final

import attrs
from torch import nn

from align.core.autoencoder import AutoencoderSpec
from align.core.network import OBJECTS
from align.core.option import at_least, option
from align.networks.layers import Residual, in_groups


@final
@attrs.frozen(kw_only=True)
class PixelShuffleConfig(AutoencoderSpec):
    """Makes pixels of channels: little work in large pictures.

    A convolutional autoencoder whose decoder enlarges by turning channels into pixels.

    The first convolution halves the side, and only the last one sees every pixel. Nearly all of
    the work is done where there are few places and many channels.

    Reference: Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network, Shi et al., 2016, arXiv:1609.05158, section 3.2.
    """

    kind: ClassVar[str] = "pixel_shuffle"

    colours: int = option("channels of a picture", check=at_least(1), default=3)
    latents: int = option("channels of a latent", check=at_least(1), default=4)
    encoder: tuple[int, ...] = option(
        "channels after each halving of the side, multiples of 8",
        check=in_groups,
        default=(48, 128),
    )
    decoder: tuple[int, ...] = option(
        "channels at the side of the latents and after each doubling, multiples of 8",
        check=in_groups,
        default=(160, 64, 24),
    )
    blocks: int = option(
        "residual blocks of the decoder at each side below the pictures' own",
        check=at_least(0),
        default=2,
    )

    def __attrs_post_init__(self) -> None:
        if len(self.decoder) != len(self.encoder) + 1:
            raise ValueError("'decoder' must have one entry more than 'encoder'")

    @property
    def weights_at_least(self) -> int:
        """Those of the residual blocks, with two convolutions each."""
        encoder = sum(18 * width**2 for width in self.encoder)
        inner = sum(18 * width**2 + OBJECTS for width in self.decoder[:-1])
        return encoder + self.blocks * inner

    def layers(self) -> tuple[nn.Module, nn.Module]:
        """An untrained encoder and decoder."""
        first, last = self.encoder[0], self.decoder[-1]
        down: list[nn.Module] = [nn.Conv2d(self.colours, first, 4, 2, 1), Residual(first)]
        for narrow, wide in pairwise(self.encoder):
            down += [nn.Conv2d(narrow, wide, 3, 2, 1), Residual(wide)]
        down += [nn.SiLU(), nn.Conv2d(self.encoder[-1], self.latents, 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(self.latents, self.decoder[0], 3, padding=1)]
        for wide, narrow in pairwise(self.decoder):
            up += [Residual(wide) for _ in range(self.blocks)]
            up += [nn.Conv2d(wide, 4 * narrow, 3, padding=1), nn.PixelShuffle(2)]
        up += [nn.SiLU(), nn.Conv2d(last, self.colours, 3, padding=1)]
        return nn.Sequential(*down), nn.Sequential(*up)
