"""Distances of pictures in the features of a network that was trained to recognise things."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from align.core.errors import PartError
from align.core.option import above, at_least, option

Features: TypeAlias = Callable[[Tensor], Sequence[Tensor]]
"""Feature maps (B, C_k, H_k, W_k) of pictures (B, C, H, W) in [0, 1], each with a gradient."""


def _function_name(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    module, _, name = value.partition(":")
    if not (name.isidentifier() and all(map(str.isidentifier, module.split(".")))):
        raise ValueError(f"'{attribute.name}' must be 'module:function', got '{value}'")


@final
@attrs.frozen(kw_only=True)
class Perceptual:
    """A perceptual term of a loss.

    A strong term from the first step on is satisfied by texture that only its own network sees. A
    weak and late one sharpens pictures. Judge the result by another network.

    Reference: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, Zhang et
    al., 2018, arXiv:1801.03924, Eq. 1, with all channels alike.
    """

    features: str = option(
        "'module:function' of an installed package; the function takes a device and returns a"
        " function from pictures (B, C, H, W) to a list of feature maps",
        check=_function_name,
    )
    weight: float = option("weight of the distance in the loss", default=0.1, check=above(0))
    from_step: int = option(
        "number of the first step, from 0, whose loss has the distance",
        default=0,
        check=at_least(0),
    )

    def load(self, device: torch.device) -> Features:
        """The features on `device`.

        Raises:
            PartError: there is no such module, or no such function in it.
        """
        module, _, name = self.features.partition(":")
        try:
            make: Callable[[torch.device], Features] = getattr(
                importlib.import_module(module), name
            )
        except (ImportError, AttributeError) as error:
            raise PartError(
                f"mode.perceptual.features: no '{self.features}' is installed: {error}"
            ) from error
        return make(device)


def perceptual_distance(features: Features, pictures: Tensor, references: Tensor) -> Tensor:
    """Distance (B,) of pictures from references: the mean of ‖f/‖f‖ − g/‖g‖‖² over all places.

    f and g are the features of the two at a place; each feature map has the same share in the
    mean. No gradient goes to the references.
    """
    with torch.no_grad():
        wanted = features(references)
    distances = [
        (F.normalize(f.float(), dim=1) - F.normalize(g.float(), dim=1)).square().sum(1)
        for f, g in zip(features(pictures), wanted, strict=True)
    ]
    return torch.stack([distance.flatten(1).mean(1) for distance in distances]).mean(0)
