"""The inverted residual that EfficientNet-Lite and MobileNetV2 are both built from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

Pad = tuple[int, int]
"""Zeros put before and after both axes of a picture."""

Row = tuple[int, int, int, int, int]
"""Consecutive blocks: expansion, kernel, channels out, blocks, stride of the first."""


def same(kernel: int, stride: int) -> Pad:
    """The zeros of TensorFlow's SAME convolution on sides that the stride divides."""
    total = kernel - stride
    return total // 2, total - total // 2


def symmetric(kernel: int, stride: int) -> Pad:
    """The zeros of PyTorch's usual `padding = kernel // 2`, whatever the stride."""
    return kernel // 2, kernel // 2


def pad(x: Tensor, zeros: Pad) -> Tensor:
    """Put zeros around pictures: (B, C, H, W) to (B, C, H + Σ zeros, W + Σ zeros)."""
    return F.pad(x, (*zeros, *zeros))


@final
class InvertedResidual(nn.Module):
    """Expand 1×1, filter each channel, project 1×1; the input is added where shapes agree.

    The batch normalisations are folded into the convolutions, which is why all have biases.

    Reference: MobileNetV2: Inverted Residuals and Linear Bottlenecks, Sandler et al., 2018,
    arXiv:1801.04381, section 3.
    """

    def __init__(
        self, taken: int, given: int, *, ratio: int, kernel: int, stride: int, zeros: Pad
    ) -> None:
        super().__init__()
        wide = taken * ratio
        self.expand = nn.Conv2d(taken, wide, 1) if ratio != 1 else None
        self.filter = nn.Conv2d(wide, wide, kernel, stride, groups=wide)
        self.project = nn.Conv2d(wide, given, 1)
        self.zeros = zeros
        self.residual = stride == 1 and taken == given

    def forward(self, x: Tensor) -> Tensor:
        """(B, taken, H, W) to (B, given, H / stride, W / stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = F.relu6(self.filter(pad(y, self.zeros)))
        y = self.project(y)
        result: Tensor = x + y if self.residual else y
        return result


def chain(rows: tuple[Row, ...], taken: int, *, tensorflow: bool) -> Iterator[InvertedResidual]:
    """The blocks of a table, the first taking `taken` channels, padded in either manner."""
    zeros = same if tensorflow else symmetric
    for ratio, kernel, given, repeats, first in rows:
        for index in range(repeats):
            stride = first if index == 0 else 1
            yield InvertedResidual(
                taken,
                given,
                ratio=ratio,
                kernel=kernel,
                stride=stride,
                zeros=zeros(kernel, stride),
            )
            taken = given
