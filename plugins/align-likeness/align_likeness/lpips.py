"""Likeness by LPIPS: distances of features, place by place, weighed as people see them.

Reference: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, Zhang et al.,
2018, arXiv:1801.03924, Eq. 1; lpips 0.1.4, https://github.com/richzhang/PerceptualSimilarity.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import torch
import torch.nn.functional as F
from align_classifier.torch_files import downloaded, place_of
from safetensors.torch import load
from torch import Tensor, nn

from align import PartError, Streams
from align.io.images import standardised
from align.io.weights import load_strictly, read
from align_likeness.parts import Likeness

WHO: Final = "likeness 'lpips'"
SMALLEST: Final = 64
"""Sides below are enlarged: AlexNet has no features of much smaller pictures."""
URLS: Final = {
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
}
# Of pictures in [0, 1]: the package's shift and scale are for [-1, 1].
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)
# Where each network is cut, in the numbers of torchvision's layers.
_CUTS: Final = {"alex": (0, 2, 5, 8, 10, 12), "vgg": (0, 4, 9, 16, 23, 30)}
_EPS: Final = 1e-10


def likeness(net: Literal["alex", "vgg"], weights: str, offline: bool, picture: Tensor) -> Likeness:
    """The negative distance from a picture (3, H, W); raises PartError for wrong weights."""
    path = Path(weights).expanduser() if weights else downloaded(URLS[net], WHO, offline)
    if not path.is_file():
        raise PartError(f"{WHO}: weights: no file '{weights}', as seen from '{Path.cwd()}'")
    state = read(path, WHO)
    kept = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    # Every weight is replaced right away.
    layers = Streams(0, (), ("lpips",)).initialise(lambda: nn.Sequential(*layers_of(net)))
    network = nn.ModuleDict({"features": layers})
    load_strictly(network, kept, path, f"{WHO}: weights")
    network.requires_grad_(False).eval().to(picture.device, torch.float32)
    packed = load((files("align_likeness") / "lpips_heads.safetensors").read_bytes())
    heads = [packed[f"{net}.{k}"].to(picture.device) for k in range(len(_CUTS[net]) - 1)]
    slices = [layers[start:end] for start, end in pairwise(_CUTS[net])]

    def distances(pictures: Tensor) -> Tensor:
        wanted = _sized(picture[None].float(), *pictures.shape[-2:])
        with torch.no_grad():
            targets = _features(slices, _sized(wanted, *_enlarged(pictures)))
        seen = _features(slices, _sized(pictures, *_enlarged(pictures)))
        terms = [
            ((_unit(f) - _unit(g)).square() * head[:, None, None]).sum(1).mean((1, 2))
            for f, g, head in zip(seen, targets, heads, strict=True)
        ]
        return torch.stack(terms).sum(0)

    return lambda pictures: -distances(pictures)


def file_of(net: str, weights: str) -> Path | None:
    """The file of the weights, where it is stored already."""
    path = Path(weights) if weights else place_of(URLS[net])
    return path if path.is_file() else None


def layers_of(net: str) -> list[nn.Module]:
    """torchvision's layers, under its numbers."""
    if net == "alex":
        pool = nn.MaxPool2d(3, 2)
        sizes = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1))
        first, second, third, fourth = (
            nn.Conv2d(i, o, side, stride, gap) for i, o, side, stride, gap in sizes
        )
        fifth = nn.Conv2d(256, 256, 3, 1, 1)
        heads = [first, nn.ReLU(), pool, second, nn.ReLU(), pool, third, nn.ReLU()]
        return [*heads, fourth, nn.ReLU(), fifth, nn.ReLU()]
    layers, width = list[nn.Module](), 3
    for block, (wide, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        layers += [nn.MaxPool2d(2, 2)] if block else []
        for _ in range(count):
            layers += [nn.Conv2d(width, wide, 3, padding=1), nn.ReLU()]
            width = wide
    return layers


def _features(slices: Sequence[nn.Module], pictures: Tensor) -> list[Tensor]:
    x, found = standardised(pictures, _MEAN, _STD), list[Tensor]()
    for layers in slices:
        x = layers(x)
        found.append(x)
    return found


def _unit(features: Tensor) -> Tensor:
    # A root has no slope at 0, where a place has no features at all.
    length = features.square().sum(1, keepdim=True).clamp(min=1e-20).sqrt()
    return features / (length + _EPS)


def _enlarged(pictures: Tensor) -> tuple[int, int]:
    height, width = pictures.shape[-2:]
    scale = max(1.0, SMALLEST / min(height, width))
    return round(height * scale), round(width * scale)


def _sized(pictures: Tensor, height: int, width: int) -> Tensor:
    if pictures.shape[-2:] == (height, width):
        return pictures
    resized = F.interpolate(pictures, (height, width), mode="bicubic", antialias=True)
    return resized.clamp(0, 1)
