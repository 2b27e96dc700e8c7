"""Pictures as the networks take them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from align import ContractError


def colour(data: Tensor) -> Tensor:
    """Pictures (B, 3, H, W); grey ones (B, 1, H, W) get three equal channels.

    Raises:
        ContractError: the data are not pictures.
    """
    if data.dim() != 4 or data.shape[1] not in (1, 3):
        shape = tuple(data.shape)
        raise ContractError(f"pictures must be (B, 3, H, W) or (B, 1, H, W), got {shape}")
    return data.expand(-1, 3, -1, -1)


def resized(pictures: Tensor, height: int, width: int) -> Tensor:
    """Pictures (B, C, H, W) to (B, C, height, width); bicubic, so edges may overshoot [0, 1]."""
    size = (height, width)
    if pictures.shape[2:] == torch.Size(size):
        return pictures
    return F.interpolate(pictures, size=size, mode="bicubic", align_corners=False, antialias=True)
