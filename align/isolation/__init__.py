"""The reward `isolated`: another reward, in the interpreter of another virtual environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.catalog.hookspecs import hookimpl

if TYPE_CHECKING:
    from align.core.reward import RewardSpec


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """The reward that lives in another environment."""
    from align.isolation.reward import Isolated

    return [Isolated]
