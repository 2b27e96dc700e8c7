"""ImageReward: how people would rate a picture for its prompt, with a gradient.

Network, tokenizer and weights are imported when the reward is built.
"""

from __future__ import annotations

from align import RewardSpec, hookimpl
from align_image_reward.reward import ImageReward

__all__ = ["ImageReward", "align_rewards"]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """ImageReward."""
    return [ImageReward]
