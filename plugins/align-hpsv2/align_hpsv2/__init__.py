"""Reward `hpsv2`: Human Preference Score v2 and v2.1. Weights are loaded when it is built."""

from __future__ import annotations

from align import RewardSpec, hookimpl
from align_hpsv2.reward import HPSv2

__all__ = ["HPSv2", "align_rewards"]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """How well people would like a picture for its prompt."""
    return [HPSv2]
