"""Reward: Human Preference Score v2, as its package `hpsv2` computes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final, Literal, final

import attrs
import torch
from align_clip.engine import ClipReward, View
from align_clip.spec import ClipSpec, assembled
from torch import Tensor

from align import HasReferenceImplementation, Pins, option

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import CLIPModel

REPO: Final = "xswu/HPSv2"
FILES: Final = MappingProxyType({"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"})


@final
@attrs.frozen(kw_only=True)
class HPSv2(ClipSpec, HasReferenceImplementation):
    """What people prefer for a prompt, by HPSv2.

    R(x) = cos(picture, prompt) of a CLIP ViT-H/14 trained on people's choices.

    Pictures: longest side to 224, black bars. One file of 1.97 GB has everything; the package's
    own download of the model it was trained from is not needed.

    Reference: Human Preference Score v2: A Solid Benchmark for Evaluating Human Preferences of
    Text-to-Image Synthesis, Wu et al., 2023, arXiv:2306.09341, section 4.
    """

    kind: ClassVar[str] = "hpsv2"
    pins: ClassVar[Pins | None] = Pins(
        packages=(
            "torch==2.14.1",
            "torchvision==0.29.1",
            "transformers==5.23.0",
            "huggingface_hub==2.4.0",
            "clint==0.5.1",
            "ftfy==6.3.1",
            "regex==2026.11.19",
            "requests==2.34.2",
            "tqdm==4.70.1",
        ),
        alone=("hpsv2==1.2.0",),
    )
    released: ClassVar[str] = REPO
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    version: Literal["v2.0", "v2.1"] = option(
        "version of the released weights; the package's `score` means 'v2.0' by default",
        default="v2.1",
    )

    def build(self, device: torch.device) -> ClipReward:
        """The frozen model; raises PartError when its weights cannot be used."""
        from align_clip.convert import from_file

        def load() -> CLIPModel:
            return from_file(self._located(), "gelu", "reward 'hpsv2'")

        # The package resizes tensors, so that nothing is rounded or clamped.
        view = View(geometry="longest side, black bars", clamp=False)
        return assembled(self, load, view, _plain, device, clean=True)

    def judged(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """Scores (B,) by the package hpsv2, on its own device.

        Raises:
            ImportError: the package is not installed, or does not import.
            PartError: the weights are not there.
        """
        from align_hpsv2.package import scores

        return scores(self._located(), pictures, prompts)

    def _located(self) -> Path:
        from align.io.hub import located

        return located(
            self.weights,
            REPO,
            (FILES[self.version],),
            who="reward 'hpsv2'",
            revision=self.revision,
            offline=self.offline,
        )


def _plain(cosine: Tensor, factor: float) -> Tensor:
    """The cosine itself."""
    return cosine
