"""Metrics of nearest neighbours: precision and recall, density and coverage."""

from __future__ import annotations

from typing import ClassVar, Final, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.metric import State
from align.core.option import at_least, option
from align.metrics.features import ComparingFeatureMetric

_ROWS: Final = 1024  # of a matrix of distances that are held at once


def _radii(rows: Tensor, neighbours: int) -> Tensor:
    """The distance (N,) of each row (N, D) to its k-th nearest neighbour."""
    parts = [
        torch.cdist(part, rows).kthvalue(neighbours + 1, 1).values for part in rows.split(_ROWS)
    ]
    return torch.cat(parts)


def _enough(kind: str, neighbours: int, *states: State) -> list[Tensor]:
    """The rows of samples and of references; raises PartError where there are too few."""
    sets = [state["rows"].double() for state in states]
    if min(map(len, sets)) <= neighbours:
        counts = " and ".join(str(len(rows)) for rows in sets)
        raise PartError(
            f"metric '{kind}' with neighbours = {neighbours} needs at least {neighbours + 1}"
            f" samples and as many references, got {counts}"
        )
    return sets


def precision_recall(samples: Tensor, references: Tensor, neighbours: int) -> tuple[float, float]:
    """Shares of samples within the references' balls, and of references within the samples' balls.

    A row's ball reaches to the k-th nearest neighbour in its own set; rows are (N, D) and (M, D).

    Reference: Improved Precision and Recall Metric for Assessing Generative Models, Kynkäänniemi
    et al., 2019, arXiv:1904.06991, equations 1 to 3.
    """
    shares = []
    for inside, around in ((samples, references), (references, samples)):
        radii = _radii(around, neighbours)
        hits = [(torch.cdist(part, around) < radii).any(1) for part in inside.split(_ROWS)]
        shares.append(float(torch.cat(hits).double().mean()))
    return shares[0], shares[1]


def density_coverage(samples: Tensor, references: Tensor, neighbours: int) -> tuple[float, float]:
    """Balls of references that a sample lies in, over k; and the share of balls with a sample.

    Reference: Reliable Fidelity and Diversity Metrics for Generative Models, Naeem et al., 2020,
    arXiv:2002.09797, equations 4 and 5.
    """
    radii = _radii(references, neighbours)
    inside, nearest = 0, torch.full_like(radii, torch.inf)
    for part in samples.split(_ROWS):
        distances = torch.cdist(part, references)
        inside += int((distances < radii).sum())
        nearest = torch.minimum(nearest, distances.min(0).values)
    density = inside / (neighbours * len(samples))
    return density, float((nearest < radii).double().mean())


@final
@attrs.frozen(kw_only=True)
class PrecisionRecall(ComparingFeatureMetric):
    """Shares of pictures among references, and the reverse.

    Precision and recall of pooled features, by balls of the k nearest neighbours.

    Compare values of equal numbers of pictures only.

    Reference: Improved Precision and Recall Metric for Assessing Generative Models, Kynkäänniemi
    et al., 2019, arXiv:1904.06991, equations 1 to 3.
    """

    kind: ClassVar[str] = "precision_recall"

    neighbours: int = option("neighbours k within a ball", default=3, check=at_least(1))

    def compare(self, state: State, references: State) -> dict[str, float]:
        """`precision` and `recall`.

        Raises:
            PartError: there are too few of either.
        """
        x, y = _enough(self.kind, self.neighbours, state, references)
        precision, recall = precision_recall(x, y, self.neighbours)
        return {self.named("precision"): precision, self.named("recall"): recall}


@final
@attrs.frozen(kw_only=True)
class DensityCoverage(ComparingFeatureMetric):
    """Density around references, and the share reached.

    Density and coverage of pooled features, by balls of the k nearest neighbours.

    Density is near 1 for the references' own law and may be above; one odd reference does not
    raise it much, as it does precision. Coverage has no such reference either.

    Reference: Reliable Fidelity and Diversity Metrics for Generative Models, Naeem et al., 2020,
    arXiv:2002.09797, equations 4 and 5.
    """

    kind: ClassVar[str] = "density_coverage"

    neighbours: int = option("neighbours k within a ball", default=5, check=at_least(1))

    def compare(self, state: State, references: State) -> dict[str, float]:
        """`density` and `coverage`.

        Raises:
            PartError: there are too few of either.
        """
        x, y = _enough(self.kind, self.neighbours, state, references)
        density, coverage = density_coverage(x, y, self.neighbours)
        return {self.named("density"): density, self.named("coverage"): coverage}
