"""Fréchet distances between two sets, each fitted by a Gaussian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, Self, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from align.core.errors import PartError
from align.core.metric import State, StreamedMetric
from align.core.model import Domain

SIDE: Final = 8


@final
@attrs.frozen(eq=False)
class Gaussian:
    """The Gaussian that is fitted to N features, in float64; those of several sets can be joined.

    Sums of features and of their outer products, in a form that does not lose digits: the root R
    has Rᵀ R = Σ (f − mean) (f − mean)ᵀ, and as many rows as there are features, D at most.

    Attributes:
        count: N, (), a float.
        mean: of the features, (D,).
        root: R (min(N, D), D).
    """

    count: Tensor
    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Of features (N, D), N >= 1."""
        exact = features.detach().double().cpu()
        mean = exact.mean(0)
        return cls(mean.new_tensor(len(exact)), mean, upright(exact - mean))

    @classmethod
    def joined(cls, sets: Sequence[Self]) -> Self:
        """Of the features of all sets together."""
        if len(sets) == 1:
            return sets[0]
        # By halves: sets of fewer features than a feature has numbers cost next to nothing.
        half = len(sets) // 2
        one, other = cls.joined(sets[:half]), cls.joined(sets[half:])
        count, between = one.count + other.count, other.mean - one.mean
        apart = (one.count * other.count / count).sqrt() * between
        root = upright(torch.cat([one.root, other.root, apart[None]]))
        return cls(count, one.mean + between * (other.count / count), root)

    def distance(self, other: Self) -> float:
        """|μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), as `frechet_distance` says it.

        Raises:
            PartError: one of the two has fewer than two features.
        """
        if min(self.count, other.count) < 2:
            raise PartError(
                "a Fréchet distance needs at least 2 samples and 2 references to fit Gaussians to, "
                f"got {int(self.count)} and {int(other.count)}"
            )
        mine, theirs = (g.root / (g.count - 1).sqrt() for g in (self, other))
        shared = torch.linalg.svdvals(mine @ theirs.T).sum()
        spread = mine.square().sum() + theirs.square().sum() - 2 * shared
        return float((self.mean - other.mean).square().sum() + spread.clamp_min(0))

    def state(self) -> dict[str, Tensor]:
        """As a metric keeps it."""
        return {"count": self.count, "mean": self.mean, "root": self.root}


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) of features a (N, D) and b (M, D).

    With A and B the centred features over √(N − 1) and √(M − 1), the trace of (Σ_a Σ_b)^½ is the
    sum of the singular values of A Bᵀ. That is exact for covariances without full rank, where a
    matrix square root loses half of the digits. Computed in float64.

    Reference: GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium,
    Heusel et al., 2017, arXiv:1706.08500, equation 6.

    Raises:
        PartError: one of the sets has fewer than two rows.
    """
    return Gaussian.of(a).distance(Gaussian.of(b))


def upright(rows: Tensor) -> Tensor:
    """R (min(N, D), D) with Rᵀ R = Aᵀ A of the rows A (N, D)."""
    return torch.linalg.qr(rows, mode="r").R if rows.shape[0] > rows.shape[1] else rows


@final
@attrs.frozen(kw_only=True)
class FrechetThumbnails(StreamedMetric):
    """How far pictures are from the first arm's, at a glance.

    Fréchet distance to the references, of Gaussians fitted to thumbnails of 8 x 8 pixels.

    It measures layout and colour alone; it needs no network and no download. Few samples bias it
    upwards, so compare values only at equal numbers of pictures.

    Reference: GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium,
    Heusel et al., 2017, arXiv:1706.08500, equation 6 (there of an Inception network's features).
    """

    kind: ClassVar[str] = "frechet_thumbnails"
    domain: ClassVar[Domain | None] = "image"
    needs_references: ClassVar[bool] = True

    def update(self, samples: Tensor) -> State:
        """The Gaussian of the thumbnails of pictures (B, C, H, W) in [0, 1]."""
        return Gaussian.of(_thumbnails(samples)).state()

    def merge(self, states: Sequence[State]) -> State:
        """The Gaussian of all thumbnails."""
        return Gaussian.joined([Gaussian(**state) for state in states]).state()

    def finish(self, state: State, references: State | None) -> dict[str, float]:
        """`frechet_thumbnails`, the distance of both Gaussians.

        Raises:
            PartError: there are no references, or fewer than two of either.
        """
        if references is None:
            raise PartError("metric 'frechet_thumbnails' compares with references; got none")
        return {self.kind: Gaussian(**state).distance(Gaussian(**references))}


def _thumbnails(pictures: Tensor) -> Tensor:
    """Means over the parts of a grid, (B, 3 · 8 · 8)."""
    colour = pictures.detach().float().expand(-1, 3, -1, -1)
    return F.adaptive_avg_pool2d(colour, (SIDE, SIDE)).flatten(1)
