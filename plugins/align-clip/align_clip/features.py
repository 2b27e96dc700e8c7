"""Features of CLIP's picture tower, for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import attrs
import torch
from torch import Tensor

from align import FeatureExtractor, FeatureNetwork, PictureFeatures, option
from align_clip.spec import ACTIVATION, Activation, require

if TYPE_CHECKING:
    from align_clip.engine import Encoders

_WHO = "features 'clip_image'"


@final
@attrs.frozen(kw_only=True)
class ClipImage(FeatureNetwork):
    """CLIP: features of a network that saw pictures with texts.

    The unit features that its picture tower compares with texts.

    `kind = "mmd"` of them with `widths = [10.0]` is CMMD, without the factor 1000 that it is quoted
    with, and without pairs of a picture with itself; the paper takes
    "openai/clip-vit-large-patch14-336". Features that keep their length make another FID. The
    shortest side of a picture is resized as PIL does it, bicubically and rounded to 8 bits, and the
    middle is cut out.

    Reference: Rethinking FID: Towards a Better Evaluation Metric for Image Generation, Jayasumana
    et al., 2024, arXiv:2401.09603, section 4.
    """

    kind: ClassVar[str] = "clip_image"

    weights: str = option(
        "path of a file or folder, or id of a repository on the hub",
        default="openai/clip-vit-large-patch14",
        path=True,
    )
    activation: Activation = option(ACTIVATION, default="auto")
    revision: str = option("branch, tag or commit of the hub's repository", default="main")
    offline: bool = option("whether nothing may be downloaded", default=False)

    def build(self, device: torch.device) -> FeatureExtractor:
        """Load the network; raises PartError when its weights cannot be used."""
        require(_WHO, ("transformers",))
        from align_clip.convert import network_of
        from align_clip.engine import Encoders

        network = network_of(
            self.weights,
            self.activation,
            who=_WHO,
            revision=self.revision,
            offline=self.offline,
        )
        return _Extractor(Encoders(network, recompute=False).to(device, torch.float32))


@final
@attrs.frozen(eq=False)
class _Extractor(FeatureExtractor):
    network: Encoders

    def extract(self, pictures: Tensor) -> PictureFeatures:
        """Unit features."""
        from align.io.images import preprocess, standardised

        size = self.network.size
        seen = preprocess(pictures, size, "shortest side, centre crop", match_pil=True)
        return PictureFeatures(pooled=self.network.pictures(standardised(seen)))
