"""Two classifiers of silhouettes, of different build: one to optimise, one to check with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import as_file, files
from types import MappingProxyType
from typing import Final, Literal, final

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from align import PartError

Name = Literal["conv", "patch"]

CLASSES: Final = (
    "bear",
    "bird",
    "cat",
    "cow",
    "dog",
    "elephant",
    "giraffe",
    "horse",
    "sheep",
    "zebra",
)
SIDE: Final = 28


@final
class Conv(nn.Module):
    """Four 3x3 convolutions and a mean over places."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 64, 96, 128)
        self.layers = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, padding=1) for i in range(4)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths[1:])
        self.out = nn.Linear(widths[-1], len(CLASSES))

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (B, 128) of pictures (B, 1, 28, 28)."""
        for depth, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = F.silu(norm(layer(x)))
            x = F.avg_pool2d(x, 2) if depth < 3 else x
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 10) of pictures (B, 1, 28, 28)."""
        logits: Tensor = self.out(self.features(x))
        return logits


@final
class Patch(nn.Module):
    """Mixes 49 patches of 4x4 pixels over places and over channels in turn (MLP-Mixer)."""

    def __init__(self) -> None:
        super().__init__()
        width = 96
        self.enter = nn.Linear(16, width)
        self.places = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(49), nn.Linear(49, 96), nn.GELU(), nn.Linear(96, 49))
            for _ in range(4)
        )
        self.channels = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 192), nn.GELU(), nn.Linear(192, width)
            )
            for _ in range(4)
        )
        self.out = nn.Linear(width, len(CLASSES))

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (B, 96) of pictures (B, 1, 28, 28)."""
        h = self.enter(F.unfold(x, 4, stride=4).transpose(1, 2))
        for places, channels in zip(self.places, self.channels, strict=True):
            h = h + places(h.transpose(1, 2)).transpose(1, 2)
            h = h + channels(h)
        pooled: Tensor = h.mean(1)
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 10) of pictures (B, 1, 28, 28)."""
        logits: Tensor = self.out(self.features(x))
        return logits


NETWORKS: Final[Mapping[Name, type[nn.Module]]] = MappingProxyType({"conv": Conv, "patch": Patch})


def prepared(pictures: Tensor) -> Tensor:
    """Pictures (B, C, H, W) in [0, 1] as what judges take, (B, 1, 28, 28) about zero."""
    grey = pictures.mean(1, keepdim=True)
    if grey.shape[-2:] != (SIDE, SIDE):
        grey = F.interpolate(grey, (SIDE, SIDE), mode="bicubic", antialias=True)
    return 2 * grey - 1


@cache
def load(name: Name, device: torch.device) -> nn.Module:
    """A judge with the weights that ship in this package, frozen.

    Raises:
        PartError: the weights are missing, or are not those of the judge.
    """
    with torch.device("meta"):
        judge = NETWORKS[name]()
    try:
        with as_file(files("align_pocket") / "weights" / f"judge_{name}.safetensors") as path:
            state = {key: value.float() for key, value in load_file(path).items()}
        judge.load_state_dict(state, assign=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise PartError(f"align-pocket cannot load its judge '{name}': {error}") from error
    return judge.requires_grad_(False).eval().to(device)
