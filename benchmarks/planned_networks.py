"""Networks with random weights, of sizes that memory feels: what `benchmarks.plan` plans."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LATENT = (4, 32, 32)
PICTURE = (3, 64, 64)


def transformer() -> nn.Module:
    """A transformer of DiT-B/2's width on latents (4, 32, 32): 4 layers of 768."""
    return _Transformer(layers=4, width=768, heads=12)


def convolutions() -> nn.Module:
    """Eight convolutions of 96 channels on pictures (3, 64, 64)."""
    return _Convolutions(layers=8, width=96)


def small_transformer() -> nn.Module:
    """The same, in which a test sees that all of it runs."""
    return _Transformer(layers=1, width=16, heads=2)


def small_convolutions() -> nn.Module:
    """The same, in which a test sees that all of it runs."""
    return _Convolutions(layers=1, width=8)


def decode(latents: Tensor) -> Tensor:
    """Pictures (B, 3, 256, 256) of latents, by repeating them."""
    return nn.functional.interpolate(latents[:, :3], scale_factor=8.0) / 4 + 0.5


def pictures(x1: Tensor) -> Tensor:
    """Pictures in [0, 1] of states in [-1, 1]."""
    return x1 / 2 + 0.5


class _Transformer(nn.Module):
    def __init__(self, *, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Conv2d(LATENT[0], width, 2, 2)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.latents = nn.ConvTranspose2d(width, LATENT[0], 2, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocities (B, 4, 32, 32)."""
        tokens = self.tokens(x) + t[:, None, None, None]
        out = self.layers(tokens.flatten(2).mT).mT.reshape(tokens.shape)
        velocity: Tensor = self.latents(out)
        return velocity


class _Convolutions(nn.Module):
    def __init__(self, *, layers: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(PICTURE[0], width, 3, padding=1)
        self.middle = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(layers))
        self.last = nn.Conv2d(width, PICTURE[0], 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocities (B, 3, 64, 64)."""
        hidden = self.first(x) + t[:, None, None, None]
        for layer in self.middle:
            hidden = hidden + torch.nn.functional.silu(layer(hidden))
        velocity: Tensor = self.last(hidden)
        return velocity
