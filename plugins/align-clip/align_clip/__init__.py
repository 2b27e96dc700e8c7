"""CLIP models: the reward `clip`, the engine that others of its family share, and features.

Networks and weights are imported when a reward is built.
"""

from __future__ import annotations

from align import FeatureNetwork, RewardSpec, hookimpl
from align_clip.aesthetic import Aesthetic
from align_clip.features import ClipImage
from align_clip.reward import Clip
from align_clip.siglip import Siglip

__all__ = ["Aesthetic", "Clip", "ClipImage", "Siglip", "align_features", "align_rewards"]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """How alike a picture and its prompt are, and how much a picture is liked."""
    return [Aesthetic, Clip, Siglip]


@hookimpl
def align_features() -> list[type[FeatureNetwork]]:
    """What CLIP's picture tower makes of pictures."""
    return [ClipImage]
