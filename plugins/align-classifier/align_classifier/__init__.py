"""A reward for any image classifier of transformers, timm or torchvision."""

from __future__ import annotations

from align import RewardSpec, hookimpl
from align_classifier.reward import Classifier

__all__ = ["Classifier", "align_rewards"]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """How sure a classifier is of a class."""
    return [Classifier]
