"""SqueezeNet 1.1: the classifier that checks what another one was optimised for."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN = (104.0, 117.0, 124.0)
"""Mean of the blue, green and red values that the network was trained with."""


@final
class Fire(nn.Module):
    """Squeeze 1×1, then expand 1×1 and 3×3 side by side.

    Reference: SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size,
    Iandola et al., 2016, arXiv:1602.07360, section 3.2.
    """

    def __init__(self, taken: int, narrow: int, given: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(taken, narrow, 1)
        self.expand1 = nn.Conv2d(narrow, given // 2, 1)
        self.expand3 = nn.Conv2d(narrow, given // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, taken, H, W) to (B, given, H, W)."""
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1(x), self.expand3(x)], 1))


def halve() -> nn.MaxPool2d:
    """Halve both sides, the last window reaching over the edge as in Caffe."""
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


@final
class SqueezeNet(nn.Module):
    """Logits of the 1000 ImageNet classes; 1.24 M parameters.

    Reference: SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size,
    Iandola et al., 2016, arXiv:1602.07360; version 1.1 moves the poolings forward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, stride=2)
        self.fires = nn.Sequential(
            halve(),
            Fire(64, 16, 128),
            Fire(128, 16, 128),
            halve(),
            Fire(128, 32, 256),
            Fire(256, 32, 256),
            halve(),
            Fire(256, 48, 384),
            Fire(384, 48, 384),
            Fire(384, 64, 512),
            Fire(512, 64, 512),
        )
        self.classifier = nn.Conv2d(512, 1000, 1)

    def maps(self, pictures: Tensor) -> Tensor:
        """Class maps (B, 1000, h, w) of RGB pictures (B, 3, H, W) in [0, 1], before the ReLU."""
        x = pictures.flip(1) * 255 - pictures.new_tensor(MEAN).view(3, 1, 1)
        maps: Tensor = self.classifier(self.fires(F.relu(self.stem(x))))
        return maps

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (B, 1000) of RGB pictures (B, 3, H, W) in [0, 1]; H and W at least 32."""
        return F.relu(self.maps(pictures)).mean((2, 3))
