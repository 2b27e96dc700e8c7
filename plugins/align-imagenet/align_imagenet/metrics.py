"""Metrics on the features of MobileNetV2: distance to references, and spread."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align import Domain, Metric, PartError
from align.metrics.frechet import frechet_distance
from align_imagenet.features import features


def mean_cosine_distance(rows: Tensor) -> float:
    """Mean of 1 − cos(f_i, f_j) over all pairs i < j of rows (B, D).

    Raises:
        PartError: there are fewer than two rows.
    """
    count = len(rows)
    if count < 2:
        raise PartError(f"diversity is about pairs and needs at least 2 samples, got {count}")
    unit = torch.nn.functional.normalize(rows.double(), dim=-1)
    pairs = unit.sum(0).square().sum() - unit.square().sum()
    return float(1 - pairs / (count * (count - 1)))


@final
@attrs.frozen(kw_only=True)
class Frechet(Metric):
    """How far pictures are from the first arm's, by features.

    Fréchet distance to the references, of Gaussians fitted to MobileNetV2 features.

    This is *not* FID, which uses the features of an Inception network: compare its values with
    each other only, at equal numbers and sizes of pictures; few samples bias it upwards.

    Reference: GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium,
    Heusel et al., 2017, arXiv:1706.08500, equation 6.
    """

    kind: ClassVar[str] = "frechet"
    domain: ClassVar[Domain | None] = "image"
    needs_references: ClassVar[bool] = True

    def compute(self, samples: Tensor, references: Tensor | None) -> dict[str, float]:
        """`frechet_mobilenet` of pictures (B, C, H, W) beside (R, C, H, W), both in [0, 1].

        Raises:
            PartError: there are no references, fewer than two samples or references, or pictures
                of different sizes, whose features differ for that reason alone.
            ContractError: the data are not pictures.
        """
        if references is None:
            raise PartError("metric 'frechet' compares with references and was given none")
        if samples.shape[2:] != references.shape[2:]:
            raise PartError(
                "metric 'frechet' needs samples and references of one size, got "
                f"{tuple(samples.shape[2:])} and {tuple(references.shape[2:])} pixels"
            )
        device = samples.device
        distance = frechet_distance(features(samples, device), features(references, device))
        return {"frechet_mobilenet": distance}


@final
@attrs.frozen(kw_only=True)
class Diversity(Metric):
    """How unlike each other an arm's pictures are.

    Mean cosine distance between MobileNetV2 features over all pairs of samples.

    0 when all samples are alike; the references are not used.
    """

    kind: ClassVar[str] = "diversity"
    domain: ClassVar[Domain | None] = "image"
    needs_references: ClassVar[bool] = False

    def compute(self, samples: Tensor, references: Tensor | None) -> dict[str, float]:
        """`diversity_mobilenet`, from 0 to 1, of pictures (B, C, H, W) in [0, 1].

        Raises:
            PartError: there are fewer than two samples.
            ContractError: the data are not pictures.
        """
        return {"diversity_mobilenet": mean_cosine_distance(features(samples, samples.device))}
