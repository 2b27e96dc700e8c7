"""The three networks with the weights that ship in this package, frozen."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from align import PartError
from align_imagenet.efficientnet_lite import EfficientNetLite0
from align_imagenet.mobilenet import MobileNetV2
from align_imagenet.squeezenet import SqueezeNet

Name = Literal["efficientnet_lite0", "squeezenet", "mobilenet"]


def empty(name: Name) -> nn.Module:
    """A network without memory for its parameters; consumes no random numbers."""
    with torch.device("meta"):
        match name:
            case "efficientnet_lite0":
                return EfficientNetLite0()
            case "squeezenet":
                return SqueezeNet()
            case "mobilenet":
                return MobileNetV2()


@cache
def load(name: Name, device: torch.device) -> nn.Module:
    """A network in float32 on a device, in evaluation mode and without parameter gradients.

    All users of a network get the same object, so nobody may change it.

    Raises:
        PartError: the weights are missing, or are not those of the network.
    """
    network = empty(name)
    try:
        with as_file(files("align_imagenet") / "weights" / f"{name}.safetensors") as path:
            state = {key: _prepared(value) for key, value in load_file(path).items()}
        network.load_state_dict(state, assign=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise PartError(f"align-imagenet cannot load its '{name}' weights: {error}") from error
    return network.requires_grad_(False).eval().to(device)


def _prepared(value: Tensor) -> Tensor:
    """A weight in float32; channels last, which is up to twice as fast on a CPU."""
    value = value.float()
    return value.to(memory_format=torch.channels_last) if value.dim() == 4 else value
