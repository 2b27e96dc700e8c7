"""MobileNetV2 without its classifier: the features that distances are measured in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from align_imagenet.blocks import Row, chain, pad, symmetric

ROWS: tuple[Row, ...] = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 3, 32, 3, 2),
    (6, 3, 64, 4, 2),
    (6, 3, 96, 3, 1),
    (6, 3, 160, 3, 2),
    (6, 3, 320, 1, 1),
)
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


@final
class MobileNetV2(nn.Module):
    """1280 pooled features, each in [0, 6]; 2.21 M parameters.

    The batch normalisations are folded into the convolutions.

    Reference: MobileNetV2: Inverted Residuals and Linear Bottlenecks, Sandler et al., 2018,
    arXiv:1801.04381, table 2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2)
        self.blocks = nn.Sequential(*chain(ROWS, 32, tensorflow=False))
        self.head = nn.Conv2d(320, 1280, 1)

    def maps(self, pictures: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Outputs (B, C, h, w) of these blocks for RGB pictures (B, 3, H, W) in [0, 1]."""
        mean = pictures.new_tensor(MEAN).view(3, 1, 1)
        deviation = pictures.new_tensor(DEVIATION).view(3, 1, 1)
        x = F.relu6(self.stem(pad((pictures - mean) / deviation, symmetric(3, 2))))
        outputs = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in blocks:
                outputs.append(x)
        return outputs

    def forward(self, pictures: Tensor) -> Tensor:
        """Features (B, 1280) of RGB pictures (B, 3, H, W) in [0, 1]."""
        (last,) = self.maps(pictures, (len(self.blocks) - 1,))
        return F.relu6(self.head(last)).mean((2, 3))
