"""Cheap statistics of pictures: columns in which reward hacking shows, and rewards of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Final, Literal, TypeAlias, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from align.core.metric import State, StreamedMetric
from align.core.model import Domain
from align.core.option import above, option

Statistic: TypeAlias = Literal[
    "brightness", "contrast", "saturation", "sharpness", "edges", "entropy"
]
BINS: Final = 8
LARGEST: Final[Mapping[Statistic, float]] = MappingProxyType(
    {
        "brightness": 1.0,
        "contrast": 0.5,
        "saturation": 1.0,
        "sharpness": 16.0,
        "edges": 1.0,
        "entropy": 3 * math.log2(BINS),
    }
)
"""The largest value of each statistic; the smallest is 0."""
COUNTS: Final[frozenset[Statistic]] = frozenset({"edges", "entropy"})
"""Statistics without a gradient: they count pixels, and are constant almost everywhere."""


def statistic(name: Statistic, data: Tensor, *, edge: float = 0.1) -> Tensor:
    """One number (B,), float32 or wider, for each of the pictures (B, C, H, W), clamped to [0, 1].

    With the brightness of a pixel being the mean of its channels:

    brightness: mean of the pixels' brightness.
    contrast: its standard deviation over the pixels.
    saturation: mean of (max − min) / max over the channels of a pixel.
    sharpness: variance of the brightness's Laplacian, 4 neighbours less 4 times the pixel.
    edges: share of pixels whose brightness differs from a neighbour's by more than `edge`.
    entropy: of the colour histogram with 8 bins a channel, in bits (0 to 9).

    Reference: Diatom autofocusing in brightfield microscopy: a comparative study, Pech-Pacheco,
    Cristóbal, Chamorro-Martínez, Fernández-Valdivia, 2000, ICPR, section 2 (sharpness).
    """
    floats = data.to(torch.promote_types(data.dtype, torch.float32))
    pictures = floats.clamp(0, 1).expand(-1, 3, -1, -1)
    match name:
        case "brightness":
            return pictures.mean((1, 2, 3))
        case "contrast":
            # Far below what 8 bits can tell apart; the slope of a root at 0 is not finite.
            return pictures.mean(1).var((1, 2), correction=0).clamp(min=1e-12).sqrt()
        case "saturation":
            high, low = pictures.amax(1), pictures.amin(1)
            return ((high - low) / high.clamp(min=1e-6)).mean((1, 2))
        case "sharpness":
            return _laplacian(pictures.mean(1)).var((1, 2), correction=0)
        case "edges":
            return _edges(pictures.detach().mean(1), edge)
        case "entropy":
            return torch.stack([_entropy(picture) for picture in pictures.detach()])


@final
@attrs.frozen(kw_only=True)
class ImageStatistics(StreamedMetric):
    """Edges, colours and saturation of pictures.

    Edge density, colour entropy and saturation, each a mean over the pictures.

    edges: share of pixels whose brightness differs from a neighbour's by more than `edge`.
    entropy: of the colour histogram with 8 bins a channel, in bits (0 to 9).
    saturation: mean of (max − min) / max over the channels of a pixel, from 0 to 1.

    A model that hacks a reward by textures or flat backgrounds moves these numbers far from those
    of base samples.
    """

    kind: ClassVar[str] = "image_statistics"
    domain: ClassVar[Domain | None] = "image"
    needs_references: ClassVar[bool] = False

    edge: float = option("difference of brightness that makes an edge", default=0.1, check=above(0))

    def update(self, samples: Tensor) -> State:
        """Sums of three numbers over pictures (B, C, H, W) in [0, 1]."""
        names: tuple[Statistic, ...] = ("edges", "entropy", "saturation")
        data, count = samples.detach(), torch.tensor(float(len(samples)))
        sums: dict[str, Tensor] = {"count": count.double()}
        for name in names:
            sums[name] = statistic(name, data, edge=self.edge).double().sum()
        return sums

    def merge(self, states: Sequence[State]) -> State:
        """Sums over all pictures."""
        return {name: torch.stack([state[name] for state in states]).sum(0) for name in states[0]}

    def finish(self, state: State, references: State | None) -> dict[str, float]:
        """The three means."""
        sums = {name: total for name, total in state.items() if name != "count"}
        return {name: float(total / state["count"]) for name, total in sums.items()}


def _laplacian(grey: Tensor) -> Tensor:
    """Laplacian (B, H, W) of brightness (B, H, W); the outermost pixels repeat beyond the edge."""
    padded = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across = padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return across + padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] - 4 * grey


def _edges(grey: Tensor, edge: float) -> Tensor:
    """Share (B,) of the pixels of (B, H, W) that differ from the one above or to the left."""
    edges = torch.zeros_like(grey, dtype=torch.bool)
    edges[:, 1:] |= grey.diff(dim=1).abs() > edge
    edges[:, :, 1:] |= grey.diff(dim=2).abs() > edge
    return edges.float().mean((1, 2))


def _entropy(picture: Tensor) -> Tensor:
    """Entropy in bits of the colours of one picture (3, H, W)."""
    bins = (picture * BINS).long().clamp(max=BINS - 1).flatten(1)
    codes = (bins[0] * BINS + bins[1]) * BINS + bins[2]
    share = torch.bincount(codes, minlength=BINS**3).float() / codes.numel()
    return -(share * share.clamp(min=1e-12).log2()).sum()
