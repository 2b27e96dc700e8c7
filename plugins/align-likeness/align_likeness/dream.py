"""Likeness by DreamSim, as its package loads it."""

from __future__ import annotations

from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor

from align import PartError
from align.io.images import preprocess
from align_likeness.parts import Likeness

_SIDE = 224


def likeness(variant: str, folder: str, picture: Tensor) -> Likeness:
    """The negative distance from a picture (3, H, W).

    Raises:
        PartError: the package is missing or does not import, or it cannot load its networks.
    """
    who = "likeness 'dreamsim'"
    try:
        package = import_module("dreamsim")
    except (ImportError, RuntimeError) as error:  # a torchvision of another build raises the latter
        cure = "pip install dreamsim, and torchvision from where your torch is from"
        raise PartError(f"{who}: dreamsim cannot be imported ({error}); {cure}") from error
    try:
        network, _ = package.dreamsim(
            pretrained=True, device=str(picture.device), cache_dir=folder, dreamsim_type=variant
        )
    except Exception as error:  # of the network, of the disk and of damaged files
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise PartError(f"{who}: the package cannot load '{variant}': {first}") from error
    network.requires_grad_(False).eval()

    def embedded(pictures: Tensor) -> Tensor:
        features: Tensor = network.embed(preprocess(pictures, _SIDE, "squash"))
        return features.reshape(len(pictures), -1)

    with torch.no_grad():
        wanted = embedded(picture[None].float())
    return lambda pictures: F.cosine_similarity(embedded(pictures), wanted, dim=-1) - 1
