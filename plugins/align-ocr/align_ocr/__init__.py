"""A reward for text in pictures: what an OCR reads, compared with what is wanted."""

from __future__ import annotations

from align import RewardSpec, hookimpl
from align_ocr.reward import Ocr

__all__ = ["Ocr", "align_rewards"]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """How well a wanted text can be read."""
    return [Ocr]
