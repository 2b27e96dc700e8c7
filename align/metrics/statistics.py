"""Cheap statistics of pictures: columns in which reward hacking shows."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.metric import Metric
from align.core.model import Domain
from align.core.option import above, option

BINS = 8


@final
@attrs.frozen(kw_only=True)
class ImageStatistics(Metric):
    """Edge density, colour entropy and saturation, each a mean over the pictures.

    edges: share of pixels whose brightness differs from a neighbour's by more than `edge`.
    entropy: of the colour histogram with 8 bins a channel, in bits (0 to 9).
    saturation: mean of (max − min) / max over the channels of a pixel, from 0 to 1.

    A model that learns to please a reward by textures or flat backgrounds moves these far from
    where unsteered samples have them.
    """

    kind: ClassVar[str] = "image_statistics"
    domain: ClassVar[Domain | None] = "image"
    needs_references: ClassVar[bool] = False

    edge: float = option("difference of brightness that makes an edge", default=0.1, check=above(0))

    def compute(self, samples: Tensor, references: Tensor | None) -> dict[str, float]:
        """Three numbers for pictures (B, C, H, W) in [0, 1]."""
        pictures = samples.detach().float().clamp(0, 1).expand(-1, 3, -1, -1)
        grey = pictures.mean(1)
        edges = torch.zeros_like(grey, dtype=torch.bool)
        edges[:, 1:] |= grey.diff(dim=1).abs() > self.edge
        edges[:, :, 1:] |= grey.diff(dim=2).abs() > self.edge
        high, low = pictures.amax(1), pictures.amin(1)
        saturation = (high - low) / high.clamp(min=1e-6)
        return {
            "edges": float(edges.float().mean()),
            "entropy": float(torch.stack([_entropy(p) for p in pictures]).mean()),
            "saturation": float(saturation.mean()),
        }


def _entropy(picture: Tensor) -> Tensor:
    """Entropy in bits of the colours of one picture (3, H, W)."""
    bins = (picture * BINS).long().clamp(max=BINS - 1).flatten(1)
    codes = (bins[0] * BINS + bins[1]) * BINS + bins[2]
    share = torch.bincount(codes, minlength=BINS**3).float() / codes.numel()
    return -(share * share.clamp(min=1e-12).log2()).sum()
