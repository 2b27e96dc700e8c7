"""Features of silhouettes, by a judge."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import attrs
import torch
from torch import Tensor

from align import FeatureExtractor, FeatureNetwork, PictureFeatures, option
from align_pocket.judges import CLASSES, Conv, Patch, load, prepared


@final
@attrs.frozen(kw_only=True)
class Silhouettes(FeatureNetwork):
    """A judge of silhouettes: its features, and ten animals.

    Measure by the judge that was not followed: what pleases a judge moves its features too.
    """

    kind: ClassVar[str] = "silhouettes"
    has_logits: ClassVar[bool] = True
    classes: ClassVar[tuple[str, ...]] = CLASSES

    network: Literal["conv", "patch"] = option("architecture of the judge", default="patch")

    def build(self, device: torch.device) -> FeatureExtractor:
        """Load the judge that ships with the plugin."""
        judge = load(self.network, device)
        assert isinstance(judge, Conv | Patch)
        return _Judge(judge)


@final
@attrs.frozen(eq=False)
class _Judge(FeatureExtractor):
    judge: Conv | Patch

    def extract(self, pictures: Tensor) -> PictureFeatures:
        """Pooled features and logits."""
        pooled = self.judge.features(prepared(pictures))
        return PictureFeatures(pooled=pooled, logits=self.judge.out(pooled))
