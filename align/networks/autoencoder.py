"""A small convolutional autoencoder, and the scale of latents that every autoencoder shares."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor, nn

from align.core.autoencoder import AutoencoderSpec
from align.core.network import OBJECTS
from align.core.option import at_least, option
from align.networks.layers import Residual


@final
@attrs.frozen(kw_only=True)
class AutoencoderConfig(AutoencoderSpec):
    """Works at every size of the picture; the usual one.

    A convolutional autoencoder whose decoder enlarges by repeating pixels.

    Encoder and decoder have a residual block at every side, that of the pictures included.
    """

    kind: ClassVar[str] = "upsample"

    colours: int = option("channels of a picture", check=at_least(1), default=3)
    width: int = option("channels of the widest pictures", check=at_least(8), default=32)
    levels: int = option("halvings of the side", check=at_least(1), default=3)
    latents: int = option("channels of a latent", check=at_least(1), default=16)

    @property
    def weights_at_least(self) -> int:
        """Those of the widest convolutions; a level more has four times as many."""
        return (9 * self.width**2 << 2 * min(self.levels, 64)) + OBJECTS * self.levels

    def layers(self) -> tuple[nn.Module, nn.Module]:
        """An untrained encoder and decoder."""
        widths = [self.width * 2**i for i in range(self.levels + 1)]
        down: list[nn.Module] = [nn.Conv2d(self.colours, widths[0], 3, padding=1)]
        up: list[nn.Module] = [
            nn.Conv2d(self.latents, widths[-1], 3, padding=1),
            Residual(widths[-1]),
        ]
        for narrow, wide in pairwise(widths):
            down += [Residual(narrow), nn.Conv2d(narrow, wide, 3, 2, 1)]
        for narrow, wide in reversed(list(pairwise(widths))):
            up += [
                nn.Upsample(scale_factor=2.0),
                nn.Conv2d(wide, narrow, 3, padding=1),
                Residual(narrow),
            ]
        down += [Residual(widths[-1]), nn.Conv2d(widths[-1], self.latents, 3, padding=1)]
        up += [nn.SiLU(), nn.Conv2d(widths[0], self.colours, 3, padding=1)]
        return nn.Sequential(*down), nn.Sequential(*up)


@final
class Autoencoder(nn.Module):
    """Pictures (B, C, H, W) in [0, 1] to latents (B, L, h, w) and back.

    Latents leave `encode` with zero mean and unit deviation a channel, by the buffers `mean` and
    `std` that training fills in at its end.

    Args:
        config: makes the encoder and the decoder.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: AutoencoderSpec) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = config.layers()
        self.register_buffer("mean", torch.zeros(1, config.latents, 1, 1))
        self.register_buffer("std", torch.ones(1, config.latents, 1, 1))

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures."""
        latents: Tensor = self.encoder(2 * pictures - 1)
        return (latents - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents; about [0, 1], not clamped."""
        # With channels last, convolutions take a fifth less time on a CPU.
        scaled = (latents * self.std + self.mean).contiguous(memory_format=torch.channels_last)
        pictures: Tensor = self.decoder(scaled).contiguous()
        return (pictures + 1) / 2
