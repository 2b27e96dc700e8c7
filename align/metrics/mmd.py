"""Maximum mean discrepancies: KID, and that of points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.features import FeatureNetwork
from align.core.metric import State
from align.core.model import Domain
from align.core.option import at_least, option
from align.core.streams import Streams
from align.metrics.features import ComparingFeatureMetric, ComparingMetric, extracted

Kernel: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""k(x_i, y_j), (N, M), of rows x (N, D) and y (M, D)."""

SCALES: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Widths of Gaussian kernels, in medians of the distance between references."""

_ROWS: Final = 1024  # of a kernel's matrix that are held at once
_MOST: Final = 1000  # references whose median distance is taken


def polynomial(x: Tensor, y: Tensor) -> Tensor:
    """(xᵀ y / D + 1)³, (N, M), of rows (N, D) and (M, D)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(widths: Sequence[float]) -> Kernel:
    """The mean over widths σ of e^{−|x − y|² / 2 σ²}."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squares = torch.cdist(x, y).square()
        return torch.stack([(squares / (-2 * width**2)).exp() for width in widths]).mean(0)

    return kernel


def squared_mmd(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """Unbiased estimate of MMD², which may be below 0, of rows x (N, D) and y (M, D), in float64.

    Reference: A Kernel Two-Sample Test, Gretton et al., 2012, JMLR 13, equation 3.

    Raises:
        PartError: one of the sets has fewer than two rows.
    """
    x, y = x.double(), y.double()
    if min(len(x), len(y)) < 2:
        raise PartError(
            f"a discrepancy needs at least 2 samples and 2 references, got {len(x)} and {len(y)}"
        )
    within = sum(_pairs(rows, kernel) / (len(rows) * (len(rows) - 1)) for rows in (x, y))
    between = sum(float(kernel(part, y).sum()) for part in x.split(_ROWS)) / (len(x) * len(y))
    return float(within - 2 * between)


def _pairs(rows: Tensor, kernel: Kernel) -> float:
    """The sum of k(x_i, x_j) over i ≠ j."""
    total = 0.0
    for first in range(0, len(rows), _ROWS):
        part = kernel(rows[first : first + _ROWS], rows)
        total += float(part.sum() - part.diagonal(first).sum())
    return total


@final
@attrs.frozen(kw_only=True)
class KID(ComparingFeatureMetric):
    """Distance to references: the kernel inception distance.

    Unbiased MMD² of pooled features with the kernel (xᵀ y / D + 1)³, a mean over subsets.

    Its expectation does not depend on the number of pictures, and it may be below 0 for equal
    laws. The subsets are the same in every run. A set that has no more pictures than a subset is
    taken whole.

    Reference: Demystifying MMD GANs, Bińkowski et al., 2018, arXiv:1801.01401, section 4.
    """

    kind: ClassVar[str] = "kid"

    subsets: int = option("number of subsets", default=100, check=at_least(1))
    subset_size: int = option("pictures of a subset", default=1000, check=at_least(2))
    seed: int = option("the number that the subsets are derived from", default=0)

    def compare(self, state: State, references: State) -> dict[str, float]:
        """The mean over subsets.

        Raises:
            PartError: there are fewer than two of either.
        """
        x, y = state["rows"], references["rows"]
        whole = max(len(x), len(y)) <= self.subset_size
        values = [
            squared_mmd(self._some(x, "samples", n), self._some(y, "references", n), polynomial)
            for n in range(1 if whole else self.subsets)
        ]
        return {self.named(self.kind): sum(values) / len(values)}

    def _some(self, rows: Tensor, whose: str, subset: int) -> Tensor:
        """The rows of a subset, drawn without replacement; all where there are no more."""
        if len(rows) <= self.subset_size:
            return rows
        numbers = Streams(self.seed, (subset,)).fold_in("kid", whose).uniform((len(rows),))
        return rows[numbers[0].argsort()[: self.subset_size].to(rows.device)]


def _positive(_: Any, attribute: attrs.Attribute[Any], value: tuple[float, ...]) -> None:
    if any(width <= 0 for width in value):
        raise ValueError(f"'{attribute.name}' must be greater than 0")


@final
@attrs.frozen(kw_only=True)
class MMD(ComparingMetric):
    """Distance to references: the maximum mean discrepancy.

    Unbiased MMD² of vectors, or of features of pictures; it may be below 0 for equal laws.

    "rbf" is a mean of Gaussian kernels of several widths, "polynomial" (xᵀ y / D + 1)³. Where no
    widths are given, they are ¼, ½, 1, 2 and 4 times the median distance between references.

    Reference: A Kernel Two-Sample Test, Gretton et al., 2012, JMLR 13, equation 3.
    """

    kind: ClassVar[str] = "mmd"

    kernel: Literal["rbf", "polynomial"] = option("the kernel", default="rbf")
    widths: tuple[float, ...] = option(
        "standard deviations of the Gaussian kernels; none: from the references",
        default=(),
        check=_positive,
    )
    features: FeatureNetwork | None = option(
        "the network whose features of pictures are compared; none: the samples themselves, as"
        " vectors",
        default=None,
    )

    @property
    def domain(self) -> Domain | None:
        """Pictures with a network, vectors without one."""
        return "image" if self.features else "vector"

    @property
    def network(self) -> FeatureNetwork | None:
        """Whose features are compared, if there are any."""
        return self.features

    def update(self, samples: Tensor) -> State:
        """Features of pictures, or the vectors (B, D) themselves."""
        if self.features is None:
            return {"rows": samples.detach().flatten(1)}
        return {"rows": extracted(self.features, samples).pooled}

    def compare(self, state: State, references: State) -> dict[str, float]:
        """`mmd_squared`, with the network's name where there is one.

        Raises:
            PartError: there are fewer than two of either, or they are of another dimension.
        """
        x, y = state["rows"], references["rows"]
        if x.shape[1:] != y.shape[1:]:
            raise PartError(
                f"metric 'mmd': samples have {x.shape[1]} numbers, and references {y.shape[1]}"
            )
        name = f"mmd_squared_{self.features.kind}" if self.features else "mmd_squared"
        return {name: squared_mmd(x, y, self._kernel(y))}

    def _kernel(self, references: Tensor) -> Kernel:
        if self.kernel == "polynomial":
            return polynomial
        return gaussian(self.widths or [scale * _median(references) for scale in SCALES])


def _median(rows: Tensor) -> float:
    """The median distance between rows (N, D), of some of them where there are many."""
    some = rows[:: -(-len(rows) // _MOST)].double()
    distances = torch.pdist(some)
    return float(distances.median().clamp_min(1e-12)) if len(distances) else 1.0
