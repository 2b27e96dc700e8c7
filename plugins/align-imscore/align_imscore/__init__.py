"""The differentiable scorers of the package imscore, as one reward."""

from __future__ import annotations

from align import RewardSpec, hookimpl
from align_imscore.reward import Imscore

__all__ = ["Imscore", "align_rewards"]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """What a scorer of imscore says of a picture."""
    return [Imscore]
