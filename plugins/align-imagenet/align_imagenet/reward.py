"""Reward: how sure a classifier is of a class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, final

import attrs
import torch
from torch import Tensor, nn

from align import Domain, ReadsPrompts, Repeatable, Reward, RewardSpec, option
from align_imagenet.labels import index_in, index_of, others_in
from align_imagenet.pictures import colour, resized

NETWORKS = ("efficientnet_lite0", "squeezenet")


def _known(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"'{attribute.name}' must be a string, got {value!r}")
    if not value:
        return
    try:
        index_of(value)
    except ValueError as error:
        raise ValueError(f"'{attribute.name}': {error}") from None


def _one_of(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value not in NETWORKS:
        known = " or ".join(f"'{name}'" for name in NETWORKS)
        raise ValueError(f"'{attribute.name}' must be {known}, got {value!r}")


def _in_steps(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value < 32 or value % 32:
        raise ValueError(f"'{attribute.name}' must be 32, 64, 96 and so on, got {value}")


@final
@attrs.frozen(kw_only=True)
class ImageNet(RewardSpec, Repeatable):
    """A class of ImageNet, by small classifiers.

    R(x) = log p(label | x) by an ImageNet classifier with 1000 classes.

    Pictures are resized to `size` × `size` (bicubic, squashed if they are not square) and never
    clamped, so the gradient reaches every pixel. Optimise `efficientnet_lite0` and hold out
    `squeezenet`, or the other way round: a network does not judge what it was optimised for.

    Reference: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, Tan and
    Le, 2019, arXiv:1905.11946; SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and
    <0.5MB model size, Iandola et al., 2016, arXiv:1602.07360.
    """

    kind: ClassVar[str] = "imagenet"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (-math.inf, 0.0)

    label: str = option(
        "an ImageNet-1k class, by any of its names or its index; none: as the prompt says",
        default="",
        check=_known,
    )
    network: Literal["efficientnet_lite0", "squeezenet"] = option(
        "the classifier: 'efficientnet_lite0' or 'squeezenet'",
        default="efficientnet_lite0",
        check=_one_of,
    )
    size: int = option(
        "side in pixels that pictures are resized to, a multiple of 32; cost grows as its square",
        default=128,
        check=_in_steps,
    )

    @property
    def needs_prompt(self) -> bool:
        """Where no class is named."""
        return not self.label

    def check_prompt(self, prompt: str) -> None:
        """Raise PromptError for a prompt that should name a class and does not."""
        if not self.label:
            index_in(prompt)

    def build(self, device: torch.device) -> ClassScore:
        """The frozen classifier; raises PartError when its weights cannot be used."""
        from align_imagenet.loading import load

        index = index_of(self.label) if self.label else None
        return ClassScore(network=load(self.network, device), index=index, size=self.size)


@final
@attrs.frozen(kw_only=True, eq=False)
class ClassScore(Reward, ReadsPrompts):
    """log softmax(network(x))_index, in the precision of the network.

    Attributes:
        index: of the class; None for the one that a prompt names.
    """

    network: nn.Module
    index: int | None
    size: int

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Log-probabilities (B,) of pictures (B, 3, H, W) or (B, 1, H, W) in [0, 1].

        Raises:
            ContractError: the data are not pictures.
            PromptError: a prompt that should name a class does not.
        """
        pictures = colour(data).to(next(self.network.parameters()).dtype)
        logits = self.network(resized(pictures, self.size, self.size))
        scores = torch.log_softmax(logits, -1)
        if self.index is not None:
            return scores[:, self.index]
        asked = torch.tensor([index_in(prompt) for prompt in prompts], device=scores.device)
        return scores.gather(1, asked[:, None])[:, 0]

    def left_out(self, prompt: str) -> str:
        """The classes that a prompt names beside the one that counts."""
        return others_in(prompt) if self.index is None else ""
