"""Fréchet distances on the features of a network: FID and sFID."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.metric import State
from align.metrics.features import (
    Arrays,
    ComparingFeatureMetric,
    array_in,
    extracted,
    require_features,
)
from align.metrics.frechet import Gaussian
from align.metrics.inception import Inception


@attrs.frozen(kw_only=True)
class _Frechet(ComparingFeatureMetric):
    """Gaussians of features, of which samples are never together in memory."""

    def _rows(self, samples: Tensor) -> Tensor:
        """The features that are compared."""
        raise NotImplementedError

    def update(self, samples: Tensor) -> State:
        """The Gaussian of the features of pictures (B, C, H, W) in [0, 1].

        Raises:
            ContractError: the data are not pictures.
        """
        return Gaussian.of(self._rows(samples)).state()

    def merge(self, states: Sequence[State]) -> State:
        """The Gaussian of all features."""
        return Gaussian.joined([Gaussian(**state) for state in states]).state()

    def compare(self, state: State, references: State) -> dict[str, float]:
        """The distance of both Gaussians.

        Raises:
            PartError: there are fewer than two of either, or the features are others.
        """
        mine, theirs = Gaussian(**state), Gaussian(**references)
        if mine.mean.shape != theirs.mean.shape:
            raise PartError(
                f"metric '{self.kind}': the reference has {len(theirs.mean)} features, and"
                f" '{self.features.kind}' {len(mine.mean)}; name the reference of this network"
            )
        return {self.named(self.kind): mine.distance(theirs)}

    def _told(self, arrays: Arrays, mean: str, covariance: str) -> State | None:
        """The Gaussian of a mean (D,) and a covariance (D, D) in a file.

        None where they are not there, and where they are of Inception, as they are in files with
        pictures, and this metric is of another network.
        """
        if mean not in arrays or covariance not in arrays:
            return None
        if "arr_0" in arrays and self.features.kind != Inception.kind:
            return None
        middle, spread = (
            torch.from_numpy(array_in(arrays, name)).double() for name in (mean, covariance)
        )
        if middle.dim() != 1 or spread.shape != (len(middle), len(middle)):
            raise PartError(
                f"reference: '{mean}' is {tuple(middle.shape)} and '{covariance}'"
                f" {tuple(spread.shape)}; expected (D,) and (D, D)"
            )
        values, vectors = torch.linalg.eigh((spread + spread.T) / 2)
        root = values.clamp_min(0).sqrt()[:, None] * vectors.T
        # Of two features, whose count less one is 1.
        return Gaussian(middle.new_tensor(2), middle, root).state()


@final
@attrs.frozen(kw_only=True)
class FID(_Frechet):
    """Distance to references: the Fréchet inception distance.

    Fréchet distance of Gaussians fitted to the pooled features of a network.

    With `features = "inception"` that is FID as it is quoted, if the pictures are as many and as
    large as others', and the reference is the same. Few pictures bias it upwards. With another
    network compare its values with each other only.

    Of an .npz file "mu" and "sigma" are taken where they are there, as ADM's evaluator does, and
    else the pictures "arr_0". On another network than "inception" the pictures come first.

    Reference: GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium,
    Heusel et al., 2017, arXiv:1706.08500, equation 6.
    """

    kind: ClassVar[str] = "fid"
    kept_as: ClassVar[str] = "gaussian"

    def _rows(self, samples: Tensor) -> Tensor:
        return extracted(self.features, samples).pooled

    def statistics(self, arrays: Arrays) -> State | None:
        """Those of "mu" and "sigma"."""
        return self._told(arrays, "mu", "sigma")


@final
@attrs.frozen(kw_only=True)
class SpatialFID(_Frechet):
    """Distance to references in where things are: sFID.

    Fréchet distance of Gaussians fitted to the spatial features of a network.

    Those of "inception" are the first 7 channels of the block "mixed_6", 2023 numbers. Of an .npz
    file "mu_s" and "sigma_s" are taken where they are there.

    Reference: Generating Images with Sparse Representations, Nash et al., 2021, arXiv:2103.03841,
    section 5.1.
    """

    kind: ClassVar[str] = "sfid"
    kept_as: ClassVar[str] = "gaussian of spatial features"

    def __attrs_post_init__(self) -> None:
        """Refuse a network without spatial features."""
        network = self.features
        require_features(network, self.kind, network.has_spatial, "spatial features")

    def _rows(self, samples: Tensor) -> Tensor:
        spatial = extracted(self.features, samples).spatial
        assert spatial is not None
        return spatial

    def statistics(self, arrays: Arrays) -> State | None:
        """Those of "mu_s" and "sigma_s"."""
        return self._told(arrays, "mu_s", "sigma_s")
