"""The likelihood of a noisy linear measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.model import Domain
from align.core.option import above, option
from align.core.reward import Quadratic, Repeatable, Reward, RewardSpec


def _rows(spec: Likelihood, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not value or len({len(row) for row in value}) != 1 or not value[0]:
        raise ValueError(f"'{attribute.name}' must be rows of equal length, of one number or more")


def _matches(spec: Likelihood, attribute: attrs.Attribute[Any], value: Any) -> None:
    if len(value) != len(spec.matrix):
        raise ValueError(f"'{attribute.name}' must have one number for each row of 'matrix'")


@final
@attrs.frozen(kw_only=True)
class Likelihood(RewardSpec, Repeatable):
    """A linear measurement of vectors.

    R(x) = −|A x − y|² / (2 std²), so that p e^R is the law of x given y = A x + N(0, std²).

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, appendix F.1.
    """

    kind: ClassVar[str] = "likelihood"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "vector"
    is_quadratic: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (-math.inf, 0.0)

    matrix: tuple[tuple[float, ...], ...] = option(
        "matrix A, one row for each measurement", check=_rows
    )
    observed: tuple[float, ...] = option(
        "measured values y, one for each row of the matrix", check=_matches
    )
    std: float = option("standard deviation of the measurement's noise", check=above(0))

    @property
    def dimension(self) -> int:
        """Columns of A."""
        return len(self.matrix[0])

    def build(self, device: torch.device) -> LinearLikelihood:
        """The reward, in float64."""
        scale = 1 / self.std
        matrix = torch.tensor(self.matrix, dtype=torch.float64, device=device) * scale
        observed = torch.tensor(self.observed, dtype=torch.float64, device=device) * scale
        return LinearLikelihood(matrix, observed)


@final
@attrs.frozen(eq=False)
class LinearLikelihood(Reward, Quadratic):
    """R(x) = −½ |A x − y|² with A (K, D) and y (K,), both divided by the noise's deviation."""

    matrix: Tensor
    observed: Tensor

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """R (B,) of vectors (B, D), in their precision."""
        residual = data @ self.matrix.to(data).T - self.observed.to(data)
        return -0.5 * residual.square().sum(-1)

    def quadratic(self) -> tuple[Tensor, Tensor, Tensor]:
        """P = Aᵀ A (D, D), h = Aᵀ y (D,) and c = −½ |y|² ()."""
        a, y = self.matrix, self.observed
        return a.T @ a, a.T @ y, -0.5 * (y @ y)
