"""Class rewards and feature metrics from three small ImageNet networks; public transformers.

EfficientNet-Lite0 is there to be optimised, SqueezeNet to check what was optimised, MobileNetV2 to
measure distances between sets of pictures; their weights are inside. SiT, REPA, DMF and MFM come
from files that people have. Networks and weights are imported when a part is used.
"""

from __future__ import annotations

from align import FeatureNetwork, Metric, ModelSpec, RewardSpec, hookimpl
from align.core.autoencoder import AutoencoderSpec
from align_imagenet.features import MobileNet
from align_imagenet.metrics import Diversity, Frechet
from align_imagenet.model import ImageNetModel
from align_imagenet.reward import ImageNet
from align_imagenet.vae import KL

__all__ = [
    "KL",
    "Diversity",
    "Frechet",
    "ImageNet",
    "ImageNetModel",
    "MobileNet",
    "align_autoencoders",
    "align_features",
    "align_metrics",
    "align_models",
    "align_rewards",
]


@hookimpl
def align_models() -> list[type[ModelSpec]]:
    """The public transformers of ImageNet 256."""
    return [ImageNetModel]


@hookimpl
def align_autoencoders() -> list[type[AutoencoderSpec]]:
    """The autoencoder of Stable Diffusion, whose latents they make."""
    return [KL]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """The log-probability of an ImageNet class."""
    return [ImageNet]


@hookimpl
def align_metrics() -> list[type[Metric]]:
    """Distance to references, and spread, in the features of MobileNetV2."""
    return [Frechet, Diversity]


@hookimpl
def align_features() -> list[type[FeatureNetwork]]:
    """MobileNetV2."""
    return [MobileNet]
