"""Rewards that need nothing beyond the core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.catalog.hookspecs import hookimpl

if TYPE_CHECKING:
    from align.core.reward import RewardSpec


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """Rewards."""
    from align.rewards.compressibility import Compressibility, Incompressibility
    from align.rewards.linear import Likelihood
    from align.rewards.measurement import Measurement
    from align.rewards.psnr import PSNR
    from align.rewards.python import Python
    from align.rewards.statistic import PictureStatistic

    pictures: list[type[RewardSpec]] = [Compressibility, Incompressibility, PictureStatistic]
    return [*pictures, Likelihood, Measurement, PSNR, Python]
