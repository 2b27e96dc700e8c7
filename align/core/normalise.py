"""Normalisation: rewards of different scales, made comparable by their scores of unsteered samples.

"zscore": f(R) = (R − mean) / std: every reward then has mean 0 and deviation 1 over the base model.
"rank": f(R) = F(R), the distribution function of the unsteered scores: every reward then has the
uniform law on [0, 1] over the base model, whatever its own law is.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.baseline import deviation
from align.core.errors import PartError
from align.core.reward import Transform

Normalise: TypeAlias = Literal["none", "zscore", "rank"]


@final
@attrs.frozen
class Standardised(Transform):
    """f(R) = (R − mean) / std."""

    mean: float
    std: float

    def of(self, score: Tensor) -> Tensor:
        """f(R) (B,)."""
        return (score - self.mean) / self.std

    @property
    def affine(self) -> tuple[float, float]:
        """1 / std and −mean / std."""
        return 1 / self.std, -self.mean / self.std


@final
@attrs.frozen(eq=False)
class Ranked(Transform):
    """F(R), linear between the scores it is known at, constant outside of them.

    Attributes:
        scores: the distinct unsteered scores, rising, (K,).
        shares: the share of unsteered samples below each, half of its equals counted, (K,).
    """

    scores: Tensor = attrs.field(repr=False)
    shares: Tensor = attrs.field(repr=False)

    @classmethod
    def among(cls, scores: Tensor) -> Ranked:
        """F of the scores (M,), from 1/(2M) at the lowest to 1 − 1/(2M) at the highest."""
        distinct, counts = scores.detach().double().unique(return_counts=True)
        shares = (counts.cumsum(0) - counts.double() / 2) / len(scores)
        return cls(distinct, shares)

    def of(self, score: Tensor) -> Tensor:
        """F(R) (B,); without a gradient beyond the lowest and the highest score."""
        scores, shares = self.scores, self.shares
        # At a score itself the slope is the one to its left.
        right = torch.searchsorted(scores, score.detach().double()).clamp(1, len(scores) - 1)
        left = right - 1
        slope = (shares[right] - shares[left]) / (scores[right] - scores[left])
        share = shares[left] + slope * (score.double() - scores[left])
        return share.clamp(shares[0], shares[-1]).to(score)


@final
@attrs.frozen(eq=False)
class Clipped(Transform):
    """The inner transform, or the score itself, held within [low, high]; flat outside."""

    inner: Transform | None
    low: float
    high: float

    def of(self, score: Tensor) -> Tensor:
        """f(R) (B,)."""
        inner = self.inner.of(score) if self.inner else score
        return inner.clamp(self.low, self.high)


def fitted(
    name: str, normalise: Normalise, clip: tuple[float, float] | None, scores: Tensor | None
) -> Transform | None:
    """The transform of a reward with these scores (M,) of unsteered samples.

    Raises:
        PartError: there are no such scores though they are needed, or they are all alike.
    """
    transform: Transform | None = None
    if normalise != "none":
        if scores is None or len(scores) < 2:
            raise PartError(
                f"reward '{name}': '{normalise}' needs the scores of at least 2 unsteered samples"
            )
        if scores.min() == scores.max():
            raise PartError(
                f"reward '{name}' cannot be normalised by '{normalise}': "
                f"all {len(scores)} unsteered samples score {float(scores[0]):g}"
            )
        exact = scores.double()
        if normalise == "zscore":
            transform = Standardised(float(exact.mean()), deviation(exact))
        else:
            transform = Ranked.among(scores)
    return Clipped(transform, *clip) if clip else transform
