"""Class rewards and feature metrics from three small ImageNet networks, weights inside.

EfficientNet-Lite0 is there to be optimised, SqueezeNet to check what was optimised, MobileNetV2 to
measure distances between sets of pictures. Networks and weights are imported when a part is used.
"""

from __future__ import annotations

from align import Metric, RewardSpec, hookimpl
from align_imagenet.metrics import Diversity, Frechet
from align_imagenet.reward import ImageNet

__all__ = ["Diversity", "Frechet", "ImageNet", "align_metrics", "align_rewards"]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """The log-probability of an ImageNet class."""
    return [ImageNet]


@hookimpl
def align_metrics() -> list[type[Metric]]:
    """Distance to references, and spread, in the features of MobileNetV2."""
    return [Frechet, Diversity]
