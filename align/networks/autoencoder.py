"""A small convolutional autoencoder: pictures to latents of unit scale and back."""

from __future__ import annotations

from itertools import pairwise
from typing import final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.core.option import at_least, option


@final
@attrs.frozen(kw_only=True)
class AutoencoderConfig:
    """Size of an autoencoder."""

    colours: int = option("channels of a picture", check=at_least(1), default=3)
    width: int = option("channels of the widest pictures", check=at_least(8), default=32)
    levels: int = option("halvings of the side", check=at_least(1), default=3)
    latents: int = option("channels of a latent", check=at_least(1), default=16)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape (B, width, H, W)."""
        change: Tensor = self.second(F.silu(self.first(F.silu(self.norm(x)))))
        return x + change


@final
class Autoencoder(nn.Module):
    """Pictures (B, C, H, W) in [0, 1] to latents (B, L, H / 2^levels, W / 2^levels).

    Latents leave `encode` with zero mean and unit deviation a channel, by the buffers `mean` and
    `std` that training fills in at its end.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**i for i in range(config.levels + 1)]
        down: list[nn.Module] = [nn.Conv2d(config.colours, widths[0], 3, padding=1)]
        up: list[nn.Module] = [
            nn.Conv2d(config.latents, widths[-1], 3, padding=1),
            _Residual(widths[-1]),
        ]
        for narrow, wide in pairwise(widths):
            down += [_Residual(narrow), nn.Conv2d(narrow, wide, 3, 2, 1)]
        for narrow, wide in reversed(list(pairwise(widths))):
            up += [
                nn.Upsample(scale_factor=2.0),
                nn.Conv2d(wide, narrow, 3, padding=1),
                _Residual(narrow),
            ]
        down += [_Residual(widths[-1]), nn.Conv2d(widths[-1], config.latents, 3, padding=1)]
        up += [nn.SiLU(), nn.Conv2d(widths[0], config.colours, 3, padding=1)]
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)
        self.register_buffer("mean", torch.zeros(1, config.latents, 1, 1))
        self.register_buffer("std", torch.ones(1, config.latents, 1, 1))

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures."""
        latents: Tensor = self.encoder(2 * pictures - 1)
        return (latents - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents; about [0, 1], not clamped."""
        pictures: Tensor = self.decoder(latents * self.std + self.mean)
        return (pictures + 1) / 2
