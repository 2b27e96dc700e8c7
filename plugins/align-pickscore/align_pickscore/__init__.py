"""Reward `pickscore`: PickScore v1. Weights are loaded when it is built."""

from __future__ import annotations

from align import RewardSpec, hookimpl
from align_pickscore.reward import PickScore

__all__ = ["PickScore", "align_rewards"]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """How likely people are to pick a picture for its prompt."""
    return [PickScore]
