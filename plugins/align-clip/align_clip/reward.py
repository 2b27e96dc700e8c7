"""Reward: how alike a CLIP model finds a picture and its prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align import HasReferenceImplementation, Pins, option
from align_clip.spec import ACTIVATION, Activation, ClipSpec, assembled

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import CLIPModel

    from align_clip.engine import ClipReward

Scale: TypeAlias = Literal["cosine", "clipscore", "torchmetrics", "logit"]

REPO: Final = "openai/clip-vit-large-patch14"


@final
@attrs.frozen(kw_only=True)
class Clip(ClipSpec, HasReferenceImplementation):
    """How well a picture fits its prompt, by CLIP.

    R(x) = scale(cos(picture, prompt)) of a CLIP model by OpenAI or open_clip.

    Pictures: shortest side to the network's size, centre crop. Scales, which differ by package:
    'cosine' is cos; 'clipscore' is 2.5 max(cos, 0), of the paper; 'torchmetrics' is
    100 max(cos, 0); 'logit' is e^s cos with the model's own s, about 100 cos.

    Reference: CLIPScore: A Reference-free Evaluation Metric for Image Captioning, Hessel et al.,
    2021, arXiv:2104.08718, section 3.
    """

    kind: ClassVar[str] = "clip"
    pins: ClassVar[Pins | None] = Pins(
        packages=(
            "torch==2.14.1",
            "torchvision==0.29.1",
            "transformers==5.23.0",
            "ftfy==6.3.1",
            "regex==2026.11.19",
            "setuptools==81.0.0",
            "tqdm==4.70.1",
        ),
        alone=("clip-anytorch==2.6.0",),
    )
    released: ClassVar[str] = REPO
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    scale: Scale = option(
        "of the cosine: 'cosine', 'clipscore', 'torchmetrics' or 'logit'", default="cosine"
    )
    activation: Activation = option(ACTIVATION, default="auto")
    match_pil: bool = option("whether resizing rounds to 8 bits where PIL does", default=False)

    def build(self, device: torch.device) -> ClipReward:
        """The frozen model; raises PartError when its weights cannot be used."""
        from align_clip.engine import View

        view = View(geometry="shortest side, centre crop", match_pil=self.match_pil)
        scale = partial(scaled, self.scale)
        return assembled(self, self._network, view, scale, device, clean=True)

    def _network(self) -> CLIPModel:
        from align_clip.convert import network_of

        return network_of(
            self.weights or REPO,
            self.activation,
            who="reward 'clip'",
            revision=self.revision,
            offline=self.offline,
        )

    def judged(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """Scores (B,) on the CPU: of a file by OpenAI's package, of a folder by transformers.

        Raises:
            ImportError: the package is not installed, does not import, or cannot read the file.
            PartError: the weights are not there.
        """
        from align.io.hub import located
        from align_clip.convert import FILES
        from align_clip.package import by_clip, by_transformers

        find = partial(located, who="reward 'clip'", revision=self.revision, offline=self.offline)
        if not Path(self.weights).expanduser().is_file():
            folder = find(self.weights, REPO, ("config.json",)).parent
            find(self.weights, REPO, FILES)
            cosine, factor = by_transformers(folder, str(folder), pictures, prompts)
        elif self.activation == "gelu":
            raise ImportError("OpenAI's package has models with 'quick_gelu' alone")
        else:
            cosine, factor = by_clip(find(self.weights, REPO, FILES), pictures, prompts)
        return scaled(self.scale, cosine, factor)


def scaled(scale: Scale, cosine: Tensor, factor: float) -> Tensor:
    """Cosines (B,) on one of the scales in use; `factor` is the model's own."""
    match scale:
        case "cosine":
            return cosine
        case "clipscore":
            return 2.5 * cosine.clamp(min=0)
        case "torchmetrics":
            return 100 * cosine.clamp(min=0)
        case "logit":
            return factor * cosine
