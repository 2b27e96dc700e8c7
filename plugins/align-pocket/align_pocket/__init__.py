"""The embedded default: a small latent flow, its meta flow map, and two judges of its pictures."""

from __future__ import annotations

from align import ModelSpec, RewardSpec, hookimpl
from align_pocket.model import Pocket
from align_pocket.reward import SilhouetteClass

__all__ = ["Pocket", "SilhouetteClass", "align_models", "align_rewards"]


@hookimpl
def align_models() -> list[type[ModelSpec]]:
    """The embedded model."""
    return [Pocket]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """How sure a classifier is of an animal."""
    return [SilhouetteClass]
