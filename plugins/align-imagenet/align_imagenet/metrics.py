"""Metrics on the features of MobileNetV2: distance to references, and spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align import Domain, PartError, StreamedMetric
from align.core.metric import State
from align.metrics.frechet import Gaussian
from align_imagenet.features import features


def mean_cosine_distance(rows: Tensor) -> float:
    """Mean of 1 − cos(f_i, f_j) over all pairs i < j of rows (B, D).

    Raises:
        PartError: there are fewer than two rows.
    """
    return _of_pairs(_directions(rows))


def _directions(rows: Tensor) -> State:
    """Sums over the rows (B, D) by which the cosines of all pairs can be added up."""
    unit = torch.nn.functional.normalize(rows.double(), dim=-1)
    count = torch.tensor(float(len(rows)), dtype=torch.float64)
    return {"count": count, "directions": unit.sum(0), "squares": unit.square().sum()}


def _of_pairs(state: State) -> float:
    """The mean over pairs, of `_directions`."""
    count = int(state["count"])
    if count < 2:
        raise PartError(f"diversity is about pairs and needs at least 2 samples, got {count}")
    pairs = state["directions"].square().sum() - state["squares"]
    return float(1 - pairs / (count * (count - 1)))


@final
@attrs.frozen(kw_only=True)
class Frechet(StreamedMetric):
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

    def update(self, samples: Tensor) -> State:
        """The Gaussian of the features of pictures (B, C, H, W) in [0, 1], and their size.

        Raises:
            ContractError: the data are not pictures.
        """
        gaussian = Gaussian.of(features(samples, samples.device))
        return {**gaussian.state(), "size": torch.tensor(samples.shape[2:])}

    def merge(self, states: Sequence[State]) -> State:
        """The Gaussian of all features."""
        whole = Gaussian.joined([_gaussian(state) for state in states])
        return {**whole.state(), "size": states[0]["size"]}

    def finish(self, state: State, references: State | None) -> dict[str, float]:
        """`frechet_mobilenet` of samples beside references.

        Raises:
            PartError: there are no references, fewer than two samples or references, or pictures
                of different sizes, whose features differ for that reason alone.
        """
        if references is None:
            raise PartError("metric 'frechet' compares with references and was given none")
        sizes = [tuple(kept["size"].tolist()) for kept in (state, references)]
        if sizes[0] != sizes[1]:
            raise PartError(
                "metric 'frechet' needs samples and references of one size, got "
                f"{sizes[0]} and {sizes[1]} pixels"
            )
        return {"frechet_mobilenet": _gaussian(state).distance(_gaussian(references))}


def _gaussian(state: State) -> Gaussian:
    return Gaussian(state["count"], state["mean"], state["root"])


@final
@attrs.frozen(kw_only=True)
class Diversity(StreamedMetric):
    """How unlike each other an arm's pictures are.

    Mean cosine distance between MobileNetV2 features over all pairs of samples.

    0 when all samples are alike; the references are not used.
    """

    kind: ClassVar[str] = "diversity"
    domain: ClassVar[Domain | None] = "image"
    needs_references: ClassVar[bool] = False

    def update(self, samples: Tensor) -> State:
        """Sums over the features' directions, of pictures (B, C, H, W) in [0, 1].

        Raises:
            ContractError: the data are not pictures.
        """
        return _directions(features(samples, samples.device))

    def merge(self, states: Sequence[State]) -> State:
        """Sums over all pictures."""
        return {name: torch.stack([state[name] for state in states]).sum(0) for name in states[0]}

    def finish(self, state: State, references: State | None) -> dict[str, float]:
        """`diversity_mobilenet`, from 0 to 1.

        Raises:
            PartError: there are fewer than two samples.
        """
        return {"diversity_mobilenet": _of_pairs(state)}
