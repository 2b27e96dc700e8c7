"""Features of DINOv2, from what transformers saves."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final, final

import attrs
import torch
from torch import Tensor, nn

from align import FeatureExtractor, FeatureNetwork, PartError, PictureFeatures, Streams, option
from align.io.hub import located
from align.io.images import preprocess, standardised

SIDE: Final = 224
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)

_WHO: Final = "features 'dinov2'"
_FILES: Final = (("config.json",), ("model.safetensors", "pytorch_model.bin"))
_TYPES: Final = ("dinov2", "dinov2_with_registers")


@final
@attrs.frozen(kw_only=True)
class DINOv2(FeatureNetwork):
    """DINOv2: features of a network that saw no labels.

    The class token after the last normalisation. `kind = "fid"` of it is FD-DINOv2.

    Pictures are resized to 224 x 224 as PIL does it, bicubically and rounded to 8 bits. Published
    numbers are of "facebook/dinov2-large".

    Reference: Exposing flaws of generative model evaluation metrics and their unfair treatment of
    diffusion models, Stein et al., 2023, arXiv:2306.04675, section 4.
    """

    kind: ClassVar[str] = "dinov2"

    weights: str = option(
        "a folder, or an id of the Hugging Face hub", default="facebook/dinov2-large", path=True
    )
    revision: str = option("branch, tag or commit on the hub", default="main")
    offline: bool = option("whether nothing may be downloaded", default=False)

    def build(self, device: torch.device) -> FeatureExtractor:
        """Load the network.

        Raises:
            PartError: it cannot be found or read, or it is no DINOv2.
        """
        network = load_network(self.weights, self.revision, self.offline, _WHO)
        return _Extractor(network.to(device))


def load_network(weights: str, revision: str, offline: bool, who: str) -> nn.Module:
    """The frozen network of a folder or of the hub.

    Args:
        weights: a folder, or an id of the hub.
        revision: branch, tag or commit on the hub.
        offline: whether nothing may be downloaded.
        who: the part that asks, for messages.

    Raises:
        PartError: it cannot be found or read, or it is no DINOv2.
    """
    for files in _FILES:
        located(weights, weights, files, who=who, revision=revision, offline=offline)
    given = Path(weights).expanduser()
    place = str(given) if given.is_dir() else weights
    try:
        models: Any = import_module("transformers").AutoModel
        # What is not in the file would be drawn at random; then the network is refused.
        network, said = Streams(0, (), ("dinov2",)).initialise(
            lambda: models.from_pretrained(
                place, revision=revision, local_files_only=True, output_loading_info=True
            )
        )
    except Exception as error:  # many kinds, for everything from a wrong key to a broken file
        first = next(iter(str(error).strip().splitlines()), "")
        reason = f"{type(error).__name__}: {first}"
        raise PartError(f"{who}: weights: cannot load '{weights}': {reason}") from error
    if network.config.model_type not in _TYPES:
        text = f"'{weights}' is a '{network.config.model_type}', not a DINOv2"
        raise PartError(f"{who}: weights: {text}; give another")
    if missing := sorted(map(str, said["missing_keys"])):
        text = f"'{weights}' lacks {len(missing)} weights, such as '{missing[0]}'"
        raise PartError(f"{who}: weights: {text}; download it again")
    loaded: nn.Module = network.float().requires_grad_(False).eval()
    return loaded


@final
@attrs.frozen(eq=False)
class _Extractor(FeatureExtractor):
    network: nn.Module

    def extract(self, pictures: Tensor) -> PictureFeatures:
        """The class token."""
        seen = preprocess(pictures, SIDE, "squash", match_pil=True)
        pooled: Tensor = self.network(standardised(seen, MEAN, STD)).pooler_output
        return PictureFeatures(pooled=pooled)
