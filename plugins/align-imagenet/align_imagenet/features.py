"""The features of MobileNetV2 that the metrics are measured in."""

from __future__ import annotations

import torch
from torch import Tensor

from align_imagenet.pictures import colour, resized

SMALLEST = 64
"""Shorter side in pixels that smaller pictures are enlarged to."""

CHUNK = 64
"""Pictures that go through the network at once."""


def features(data: Tensor, device: torch.device) -> Tensor:
    """Pooled features (B, 1280), float32 on `device`, of pictures (B, C, H, W) with C 1 or 3.

    Values are clamped to [0, 1], grey pictures get three equal channels, and pictures with a side
    under 64 pixels are enlarged. No gradient.

    Raises:
        ContractError: the data are not pictures.
    """
    from align_imagenet.loading import load

    network, pictures = load("mobilenet", device), colour(data)
    height, width = pictures.shape[2:]
    scale = max(1.0, SMALLEST / min(height, width))
    rows = []
    with torch.no_grad():
        for chunk in torch.split(pictures, CHUNK):
            values = chunk.to(device, torch.float32).clamp(0, 1)
            rows.append(network(resized(values, round(height * scale), round(width * scale))))
    return torch.cat(rows)
