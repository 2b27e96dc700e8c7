"""Weights of LPIPS's networks in torchvision's layout, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from align import Streams
from align_likeness.lpips import layers_of


def small_lpips(net: str, folder: Path) -> Path:
    """Save random weights of AlexNet's ("alex") or VGG-16's ("vgg") features; returns the file.

    They have the released sizes, as LPIPS weighs the channels that there are.
    """
    network = Streams(0, (0,)).initialise(
        lambda: nn.ModuleDict({"features": nn.Sequential(*layers_of(net))})
    )
    state = network.state_dict() | {"classifier.1.weight": torch.zeros(1)}
    torch.save(state, folder / f"{net}.pth")
    return folder / f"{net}.pth"
