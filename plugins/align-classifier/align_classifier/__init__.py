"""A reward for any image classifier of transformers, timm or torchvision."""

from __future__ import annotations

from align import FeatureNetwork, RewardSpec, hookimpl
from align_classifier.dinov2 import DINOv2
from align_classifier.reward import Classifier

__all__ = ["Classifier", "DINOv2", "align_features", "align_rewards"]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """How sure a classifier is of a class."""
    return [Classifier]


@hookimpl
def align_features() -> list[type[FeatureNetwork]]:
    """DINOv2."""
    return [DINOv2]
