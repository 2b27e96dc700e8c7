"""How many kinds of pictures there are: the Vendi score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from align.core.metric import State
from align.metrics.features import FeatureMetric, extracted
from align.metrics.frechet import upright


@final
@attrs.frozen(kw_only=True)
class Vendi(FeatureMetric):
    """How many kinds of pictures there are: Vendi score.

    exp(−Σ λ log λ) of the eigenvalues λ of K / n, K the cosines of pooled features.

    1 when all pictures are alike, n when their features are orthogonal; compare values of equal
    numbers of pictures only.

    Reference: The Vendi Score: A Diversity Evaluation Metric for Machine Learning, Friedman and
    Dieng, 2022, arXiv:2210.02410, definition 3.1.
    """

    kind: ClassVar[str] = "vendi"

    def update(self, samples: Tensor) -> State:
        """A root of the sum of outer products of the features' directions, and their number.

        Raises:
            ContractError: the data are not pictures.
        """
        return root_of(extracted(self.features, samples).pooled)

    def merge(self, states: Sequence[State]) -> State:
        """The root of all."""
        rows = torch.cat([state["root"] for state in states])
        count = torch.stack([state["count"] for state in states]).sum(0)
        return {"count": count, "root": upright(rows)}

    def finish(self, state: State, references: State | None) -> dict[str, float]:
        """`vendi`, from 1 to the number of pictures."""
        return {self.named(self.kind): vendi_score(state)}


def root_of(rows: Tensor) -> State:
    """What the score of rows (N, D) takes: R with Rᵀ R = Σ f fᵀ of their directions f, and N."""
    unit = F.normalize(rows.double(), dim=1)
    return {"count": unit.new_tensor(len(rows)), "root": upright(unit)}


def vendi_score(state: State) -> float:
    """The score of what `root_of` keeps; the eigenvalues of K / n are those of Rᵀ R / n."""
    shares = torch.linalg.svdvals(state["root"]).square() / state["count"]
    return float(torch.special.entr(shares).sum().exp())
