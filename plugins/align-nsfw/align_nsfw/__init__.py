"""A judge of whether pictures are safe for work, by a network that its package carries."""

from __future__ import annotations

from align import RewardSpec, hookimpl
from align_nsfw.reward import Safe

__all__ = ["Safe", "align_rewards"]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """How safe for work a picture is."""
    return [Safe]
