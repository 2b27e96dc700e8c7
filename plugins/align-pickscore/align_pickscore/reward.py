"""Reward: PickScore, as its authors compute it with transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, final

import attrs
import torch
from align_clip.engine import ClipReward, View
from align_clip.spec import ClipSpec, assembled
from torch import Tensor

from align import HasReferenceImplementation, option

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import CLIPModel

REPO: Final = "yuvalkirstain/PickScore_v1"
WORDS: Final = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""Whose tokenizer its authors use."""
FILES: Final = ("model.safetensors", "pytorch_model.bin")


@final
@attrs.frozen(kw_only=True)
class PickScore(ClipSpec, HasReferenceImplementation):
    """What people pick for a prompt, by PickScore.

    R(x) = e^s cos(picture, prompt) of a CLIP ViT-H/14 trained on people's picks, about 20.

    Pictures: shortest side to 224, centre crop. `weights` is a folder with 'config.json' and
    'model.safetensors' or 'pytorch_model.bin', 3.94 GB. Prompts are taken as they are.

    Reference: Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation,
    Kirstain et al., 2023, arXiv:2305.01569, section 3.
    """

    kind: ClassVar[str] = "pickscore"
    released: ClassVar[str] = REPO
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    match_pil: bool = option("whether resizing rounds to 8 bits where PIL does", default=False)

    def build(self, device: torch.device) -> ClipReward:
        """The frozen model; raises PartError when its weights cannot be used."""
        from align_clip.convert import from_folder

        def load() -> CLIPModel:
            return from_folder(*self._located(), "reward 'pickscore'")

        # transformers halves an odd rest downwards, other packages round it.
        view = View(geometry="shortest side, centre crop", crop="floored", match_pil=self.match_pil)
        return assembled(self, load, view, _scaled, device, clean=False)

    def judged(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """Scores (B,) by transformers as the authors use it, pictures resized by PIL, on the CPU.

        Raises:
            PartError: the weights are not there.
        """
        from align_clip.package import by_transformers

        folder = self._located()[0].parent
        has_tokenizer = (folder / "tokenizer_config.json").is_file()
        cosine, factor = by_transformers(
            folder, str(folder) if has_tokenizer else WORDS, pictures, prompts
        )
        return factor * cosine

    def _located(self) -> tuple[Path, Path]:
        """The configuration, and the weights beside it."""
        from align.io.hub import located

        who = "reward 'pickscore'"
        find = partial(located, who=who, revision=self.revision, offline=self.offline)
        return find(self.weights, REPO, ("config.json",)), find(self.weights, REPO, FILES)


def _scaled(cosine: Tensor, factor: float) -> Tensor:
    """e^s cos, with the model's own s."""
    return factor * cosine
