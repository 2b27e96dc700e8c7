"""The sliced Wasserstein distance between two sets of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.metric import State, StreamedMetric
from align.core.model import Domain
from align.core.option import at_least, option
from align.core.streams import Streams


def sliced_w2(a: Tensor, b: Tensor, projections: int = 128, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance (mean over directions of W₂²)^½ of samples (N, D) and (M, D).

    The samples are projected on `projections` random directions; sets of unequal size are
    compared at N + M quantiles of equal weight. All is computed in the precision of `a`.

    Reference: Sliced and Radon Wasserstein barycenters of measures, Bonneel, Rabin, Peyré,
    Pfister, 2015, doi:10.1007/s10851-014-0506-3, section 3.
    """
    streams = Streams(seed, tuple(range(projections))).fold_in("directions")
    directions = streams.normal((a.shape[1],)).to(a)
    directions = directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    lines = [(points @ directions.T).sort(0).values for points in (a, b.to(a))]
    if len(a) != len(b):
        count = len(a) + len(b)
        levels = (torch.arange(count, dtype=torch.float64, device=a.device) + 0.5) / count
        lines = [line[(levels * len(line)).long()] for line in lines]
    return float((lines[0] - lines[1]).square().mean().sqrt())


@final
@attrs.frozen(kw_only=True)
class SlicedWasserstein(StreamedMetric):
    """How far samples are from the first arm's, as points.

    Sliced Wasserstein-2 distance to the references, in the units of the data.

    The directions are the same in every run. Two finite sets of one law have a distance above 0,
    which falls as one over the root of their size; compare other distances with that.

    Reference: Sliced and Radon Wasserstein barycenters of measures, Bonneel, Rabin, Peyré,
    Pfister, 2015, doi:10.1007/s10851-014-0506-3, section 3.
    """

    kind: ClassVar[str] = "sliced_wasserstein"
    domain: ClassVar[Domain | None] = "vector"
    needs_references: ClassVar[bool] = True

    projections: int = option("number of directions", default=128, check=at_least(1), grows="rows")

    def update(self, samples: Tensor) -> State:
        """The vectors (B, D) themselves, which are smaller than their projections."""
        return {"vectors": samples.detach()}

    def merge(self, states: Sequence[State]) -> State:
        """All vectors."""
        return {"vectors": torch.cat([state["vectors"] for state in states])}

    def finish(self, state: State, references: State | None) -> dict[str, float]:
        """`sliced_wasserstein` of vectors (B, D) beside (R, D).

        Raises:
            PartError: there are no references, or they are of another dimension.
        """
        samples, others = state["vectors"], None if references is None else references["vectors"]
        if others is None or samples.shape[1:] != others.shape[1:]:
            given = "none" if others is None else f"some of {others.shape[1]} numbers"
            raise PartError(
                f"metric 'sliced_wasserstein' compares vectors of {samples.shape[1]} numbers with"
                f" references, and was given {given}"
            )
        return {"sliced_wasserstein": sliced_w2(samples, others, self.projections)}
