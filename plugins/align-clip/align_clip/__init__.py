"""Rewards on CLIP models: `clip` itself, and the engine that others of its family share.

Networks and weights are imported when a reward is built.
"""

from __future__ import annotations

from align import RewardSpec, hookimpl
from align_clip.aesthetic import Aesthetic
from align_clip.reward import Clip

__all__ = ["Aesthetic", "Clip", "align_rewards"]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """How alike a picture and its prompt are, and how much a picture is liked."""
    return [Aesthetic, Clip]
