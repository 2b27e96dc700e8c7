"""Layers that several networks are built from."""

from __future__ import annotations

import math
from typing import Any, Final, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS: Final = 8
"""Groups of channels that a convolutional network normalises, each group apart."""


def in_groups(_: Any, attribute: attrs.Attribute[Any], value: tuple[int, ...]) -> None:
    """Check of an option: numbers of channels, each of which `GROUPS` divides.

    Raises:
        ValueError: there are none, or one is not a multiple of `GROUPS`.
    """
    if not value or any(width < GROUPS or width % GROUPS for width in value):
        raise ValueError(f"'{attribute.name}' must be multiples of {GROUPS}, at least one")


@final
class TimeEmbedder(nn.Module):
    """256 cosines and sines of a time, then two linear layers.

    Args:
        width: channels of the embedding.
        scale: factor on times before they are embedded.
    """

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.scale = scale

    def forward(self, t: Tensor) -> Tensor:
        """Embed times (B,) as (B, width)."""
        dtype = torch.promote_types(t.dtype, torch.float32)
        k = torch.arange(128, device=t.device, dtype=dtype)
        angles = self.scale * t[:, None].to(dtype) * torch.exp(-math.log(10_000) * k / 128)
        waves = torch.cat((angles.cos(), angles.sin()), 1)
        embedded: Tensor = self.mlp(waves.to(next(self.parameters()).dtype))
        return embedded


@final
class LabelEmbedder(nn.Module):
    """One row a class, the last row is "no class"; and a linear layer of further features.

    Args:
        classes: number of classes.
        width: channels of the embedding.
        features: numbers of a condition beside its class.
    """

    def __init__(self, classes: int, width: int, features: int = 0) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)
        self.features = nn.Linear(features, width, bias=False) if features else None

    def forward(self, label: Tensor, features: Tensor | None = None) -> Tensor:
        """Embed classes (B,), and features (B, F), as (B, width)."""
        embedded: Tensor = self.embedding_table(label)
        if self.features is None:
            return embedded
        assert features is not None
        described: Tensor = self.features(features.to(self.features.weight.dtype))
        return embedded + described


@final
class Attention(nn.Module):
    """Softmax attention of tokens to tokens, with several heads.

    Args:
        width: channels of a token.
        heads: number of heads; divides the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens (B, L, width) by softmax attention."""
        # Heads of each third: the way back then gathers three gradients with one copy.
        thirds = self.qkv(x).chunk(3, 2)
        q, k, v = (third.unflatten(2, (self.heads, -1)).transpose(1, 2) for third in thirds)
        mixed: Tensor = self.proj(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )
        return mixed


@final
class Residual(nn.Module):
    """Two convolutions beside the identity.

    Args:
        width: number of channels, a multiple of `GROUPS`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape (B, width, H, W)."""
        change: Tensor = self.second(F.silu(self.first(F.silu(self.norm(x)))))
        return x + change
