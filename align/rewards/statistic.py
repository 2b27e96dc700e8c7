"""A cheap statistic of a picture as a reward: its brightness, colour or detail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.model import Domain
from align.core.option import above, option
from align.core.reward import Repeatable, Reward, RewardSpec
from align.metrics.statistics import COUNTS, LARGEST, Statistic, statistic


@final
@attrs.frozen(kw_only=True)
class PictureStatistic(RewardSpec, Repeatable):
    """Brightness, contrast, sharpness and the like.

    R(x) = v(x), or −(v(x) − towards)² / width², for one statistic v of the picture.

    brightness: mean of all channels of all pixels, from 0 to 1.
    contrast: standard deviation of the pixels' brightness, from 0 to ½.
    saturation: mean of (max − min) / max over the channels of a pixel, from 0 to 1.
    sharpness: variance of the brightness's Laplacian, from 0 to 16.
    edges: share of pixels whose brightness differs from a neighbour's by more than `edge`.
    entropy: of the colour histogram with 8 bins a channel, from 0 to 9 bits.

    The last two have no gradient. A negative `weight` asks for less.
    """

    kind: ClassVar[str] = "statistic"
    domain: ClassVar[Domain | None] = "image"

    of: Statistic = option("statistic v of the picture")
    towards: float | None = option(
        "value of the statistic that scores best; without one, more is better", default=None
    )
    width: float = option(
        "distance from `towards` at which the score is −1; unused without `towards`",
        default=0.1,
        check=above(0),
    )
    edge: float = option("difference of brightness that makes an edge", default=0.1, check=above(0))

    @property
    def differentiable(self) -> bool:
        """Whether the statistic has a gradient."""
        return self.of not in COUNTS

    @property
    def range(self) -> tuple[float, float]:
        """Bounds of R."""
        return (0.0, LARGEST[self.of]) if self.towards is None else (-math.inf, 0.0)

    def build(self, device: torch.device) -> Reward:
        """The reward; there is nothing to load."""
        return _Statistic(self)


@final
@attrs.frozen
class _Statistic(Reward):
    spec: PictureStatistic

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """R (B,) of pictures (B, C, H, W) in [0, 1]."""
        value = statistic(self.spec.of, data, edge=self.spec.edge)
        if self.spec.towards is None:
            return value
        return -((value - self.spec.towards) / self.spec.width).square()
