"""Quadratic rewards: their sum as one form, and the mean of its exponential over Gaussians."""

from __future__ import annotations

from typing import Final, TypeAlias, final
from weakref import WeakKeyDictionary

import attrs
import torch
from torch import Tensor

from align.core.errors import NotFiniteError, PartError
from align.core.reward import Quadratic, Term, WeightedReward

_Key: TypeAlias = tuple[int, torch.dtype, torch.device]


@final
@attrs.frozen(eq=False)
class Form:
    """A quadratic r(x) = −½ xᵀ P x + hᵀ x + c in the axes where P is diagonal.

    Attributes:
        axes: orthonormal eigenvectors of P as columns, (D, D).
        quadratic: eigenvalues of P, (D,).
        linear: h in these axes, (D,).
        constant: c, ().
        lowest: the least eigenvalue of P.
    """

    axes: Tensor
    quadratic: Tensor
    linear: Tensor
    constant: Tensor
    lowest: float

    @classmethod
    def of(cls, reward: WeightedReward, like: Tensor) -> Form:
        """r = Σ λ f(R) of vectors that have the length, dtype and device of `like` (..., D).

        It is worked out once for a reward, and then remembered.

        Raises:
            PartError: a reward is not quadratic.
            NotFiniteError: its numbers are not finite.
        """
        forms, key = _FORMS.setdefault(reward, {}), (like.shape[-1], like.dtype, like.device)
        if key not in forms:
            forms[key] = cls._worked_out(reward, like)
        return forms[key]

    @classmethod
    def _worked_out(cls, reward: WeightedReward, like: Tensor) -> Form:
        size = like.shape[-1]
        quadratic, linear, constant = (
            like.new_zeros(size, size),
            like.new_zeros(size),
            like.new_zeros(()),
        )
        for term in reward.optimised:
            quadratic, linear, constant = (
                total + term.weight * part.to(total)
                for total, part in zip((quadratic, linear, constant), _parts(term), strict=True)
            )
        if not all(part.isfinite().all() for part in (quadratic, linear, constant)):
            raise NotFiniteError("r as a quadratic form has numbers that are not finite")
        values, axes = torch.linalg.eigh(quadratic)
        return cls(axes, values, linear @ axes, constant, float(values.min()))

    def bounded(self, variance: float) -> bool:
        """Whether e^r has a finite mean over N(m, v I) for all v up to `variance`."""
        return 1 + variance * self.lowest > 0

    def log_means(self, means: Tensor, variances: Tensor) -> Tensor:
        """log E[e^{r(x)}], (...), for x ~ N(m, v I) with means (..., D) and variances (...).

        With g = h − P m:  r(m) − ½ log det(I + v P) + ½ v gᵀ (I + v P)⁻¹ g.
        """
        centre, v = means @ self.axes, variances[..., None]
        gradient = self.linear - self.quadratic * centre
        growth = 1 + v * self.quadratic
        terms = self.linear * centre - 0.5 * self.quadratic * centre.square()
        at_mean = terms.sum(-1) + self.constant
        return at_mean + 0.5 * (v * gradient.square() / growth - growth.log()).sum(-1)


_FORMS: Final = WeakKeyDictionary[WeightedReward, dict[_Key, Form]]()


def _parts(term: Term) -> tuple[Tensor, Tensor, Tensor]:
    """P, h and c of f(R).

    Raises:
        PartError: it is not quadratic.
    """
    reward = term.reward.capability(Quadratic)
    affine = term.transform.affine if term.transform else (1.0, 0.0)
    if reward is None or affine is None:
        raise PartError(
            f"the exact value is known for quadratic rewards only, and '{term.name}'"
            f" {'is not one' if reward is None else 'with its clip or ranks is not one'};"
            " use estimator 'stein', which takes every reward"
        )
    slope, intercept = affine
    quadratic, linear, constant = reward.quadratic()
    return slope * quadratic, slope * linear, slope * constant + intercept
