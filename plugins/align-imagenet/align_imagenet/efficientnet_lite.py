"""EfficientNet-Lite0: the classifier that a run may optimise."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from align_imagenet.blocks import Row, chain, pad, same

ROWS: tuple[Row, ...] = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


@final
class EfficientNetLite0(nn.Module):
    """Logits of the 1000 ImageNet classes; 4.63 M parameters.

    EfficientNet-B0 without squeeze-and-excitation and with ReLU6 for Swish, its batch
    normalisations folded into the convolutions.

    Reference: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, Tan and
    Le, 2019, arXiv:1905.11946, table 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2)
        self.blocks = nn.Sequential(*chain(ROWS, 32, tensorflow=True))
        self.head = nn.Conv2d(320, 1280, 1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (B, 1000) of RGB pictures (B, 3, H, W) in [0, 1]; H and W multiples of 32."""
        x = (pictures * 255 - 127) / 128
        x = F.relu6(self.stem(pad(x, same(3, 2))))
        x = F.relu6(self.head(self.blocks(x)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
