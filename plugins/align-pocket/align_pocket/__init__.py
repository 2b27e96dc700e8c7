"""The embedded default: a small latent flow, its meta flow map, and two judges of its pictures."""

from __future__ import annotations

from align import FeatureNetwork, ModelSpec, RewardSpec, hookimpl
from align_pocket.features import Silhouettes
from align_pocket.mixture import SilhouetteMixture
from align_pocket.model import Pocket
from align_pocket.reward import SilhouetteClass

__all__ = [
    "Pocket",
    "SilhouetteClass",
    "SilhouetteMixture",
    "Silhouettes",
    "align_features",
    "align_models",
    "align_rewards",
]


@hookimpl
def align_models() -> list[type[ModelSpec]]:
    """The embedded model."""
    return [Pocket]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """How sure a classifier is of an animal, or of a mixture of some."""
    return [SilhouetteClass, SilhouetteMixture]


@hookimpl
def align_features() -> list[type[FeatureNetwork]]:
    """What a judge makes of pictures."""
    return [Silhouettes]
