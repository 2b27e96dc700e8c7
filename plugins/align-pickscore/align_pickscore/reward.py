"""Reward: PickScore, as its authors compute it with transformers."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, final

import attrs
import torch
from align_clip.engine import ClipReward, View
from align_clip.spec import ClipSpec, assembled
from torch import Tensor

from align.core.option import option

if TYPE_CHECKING:
    from transformers import CLIPModel

REPO: Final = "yuvalkirstain/PickScore_v1"
FILES: Final = ("model.safetensors", "pytorch_model.bin")


@final
@attrs.frozen(kw_only=True)
class PickScore(ClipSpec):
    """R(x) = e^s cos(picture, prompt) of a CLIP ViT-H/14 trained on people's picks, about 20.

    Pictures: shortest side to 224, centre crop. `weights` is a folder with 'config.json' and
    'model.safetensors' or 'pytorch_model.bin', 3.94 GB. Prompts are taken as they are.

    Reference: Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation,
    Kirstain et al., 2023, arXiv:2305.01569, section 3.
    """

    kind: ClassVar[str] = "pickscore"
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    match_pil: bool = option("round to 8 bits where PIL does when it resizes", default=False)

    def build(self, device: torch.device) -> ClipReward:
        """The frozen model; raises PartError when its weights cannot be used."""
        from align_clip.convert import from_folder

        from align.hub import located

        def load() -> CLIPModel:
            who = "reward 'pickscore'"
            find = partial(located, who=who, revision=self.revision, offline=self.offline)
            config = find(self.weights, REPO, ("config.json",))
            return from_folder(config, find(self.weights, REPO, FILES), who)

        # transformers halves an odd rest downwards, other packages round it.
        view = View(geometry="shortest side, centre crop", crop="floored", match_pil=self.match_pil)
        return assembled(self, load, view, _scaled, device, clean=False)


def _scaled(cosine: Tensor, factor: float) -> Tensor:
    """e^s cos, with the model's own s."""
    return factor * cosine
