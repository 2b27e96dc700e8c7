"""Fréchet distances between two sets, each fitted by a Gaussian."""

from __future__ import annotations

from typing import ClassVar, Final, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from align.core.errors import PartError
from align.core.metric import Metric
from align.core.model import Domain

SIDE: Final = 8


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
    if min(len(a), len(b)) < 2:
        raise PartError(
            "a Fréchet distance needs at least 2 samples and 2 references to fit Gaussians to, "
            f"got {len(a)} and {len(b)}"
        )
    (mean_a, root_a), (mean_b, root_b) = _gaussian(a), _gaussian(b)
    shared = torch.linalg.svdvals(root_a @ root_b.T).sum()
    spread = root_a.square().sum() + root_b.square().sum() - 2 * shared
    return float((mean_a - mean_b).square().sum() + spread.clamp_min(0))


def _gaussian(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (D,) of rows (N, D), and R (min(N, D), D) with Rᵀ R their covariance."""
    exact = rows.double()
    mean = exact.mean(0)
    root = (exact - mean) / (len(rows) - 1) ** 0.5
    if root.shape[0] > root.shape[1]:
        root = torch.linalg.qr(root, mode="r").R
    return mean, root


@final
@attrs.frozen(kw_only=True)
class FrechetThumbnails(Metric):
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

    def compute(self, samples: Tensor, references: Tensor | None) -> dict[str, float]:
        """`frechet_thumbnails` of pictures (B, C, H, W) beside (R, C, h, w), both in [0, 1].

        Raises:
            PartError: there are no references, or fewer than two of either.
        """
        if references is None:
            raise PartError("metric 'frechet_thumbnails' compares with references; got none")
        thumbnails = [_thumbnails(pictures) for pictures in (samples, references)]
        return {self.kind: frechet_distance(*thumbnails)}


def _thumbnails(pictures: Tensor) -> Tensor:
    """Means over the parts of a grid, (B, 3 · 8 · 8)."""
    colour = pictures.detach().float().expand(-1, 3, -1, -1)
    return F.adaptive_avg_pool2d(colour, (SIDE, SIDE)).flatten(1)
