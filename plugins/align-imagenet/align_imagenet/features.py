"""The features of MobileNetV2: those of the metrics, and maps for a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final, final

import attrs
import torch
from torch import Tensor

from align import FeatureExtractor, FeatureNetwork, PictureFeatures
from align_imagenet.pictures import colour, resized

SMALLEST = 64
"""Shorter side in pixels that smaller pictures are enlarged to."""

CHUNK = 64
"""Pictures that go through the network at once."""

MAPPED: Final = (0, 2, 5, 9, 13, 16)
"""The blocks whose outputs `maps` gives: from edges to parts of things."""


def maps(device: torch.device) -> Callable[[Tensor], list[Tensor]]:
    """A function from pictures (B, C, H, W) in [0, 1] to feature maps (B, C_k, H_k, W_k).

    C is 1 or 3, and the maps carry a gradient. They are for a loss, as in
    `perceptual = { features = "align_imagenet.features:maps" }`. The metrics of this package are
    of the same network, so they cannot judge what was trained by it.
    """
    from align_imagenet.loading import load
    from align_imagenet.mobilenet import MobileNetV2

    network = load("mobilenet", device)
    assert isinstance(network, MobileNetV2)

    def maps_of(pictures: Tensor) -> list[Tensor]:
        return network.maps(colour(pictures), MAPPED)

    return maps_of


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


@final
@attrs.frozen(kw_only=True)
class MobileNet(FeatureNetwork):
    """MobileNetV2: 1280 pooled features, weights inside.

    Pictures with a side under 64 pixels are enlarged.

    Reference: MobileNetV2: Inverted Residuals and Linear Bottlenecks, Sandler et al., 2018,
    arXiv:1801.04381, table 2.
    """

    kind: ClassVar[str] = "mobilenet"

    def build(self, device: torch.device) -> FeatureExtractor:
        """Load the network that ships with the plugin."""
        from align_imagenet.loading import load

        load("mobilenet", device)
        return _MobileNet()


@final
@attrs.frozen(eq=False)
class _MobileNet(FeatureExtractor):
    def extract(self, pictures: Tensor) -> PictureFeatures:
        """Pooled features alone."""
        return PictureFeatures(pooled=features(pictures, pictures.device))
