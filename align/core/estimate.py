"""Estimates: the results of value estimators."""

from __future__ import annotations

import math
from typing import final

import attrs
import torch
from torch import Tensor

from align.core.checks import read


@final
@attrs.frozen(kw_only=True, eq=False)
class Estimate:
    """Value and shift at B noisy states, and how they were found.

    Attributes:
        value: estimate of V_t(x) = log E[e^{r(x1)} | x_t = x], (B,), in units of the reward.
        error: standard error of the value, (B,); infinite where a single draw cannot
            give it, 0 where the value is exact for the sampler.
        shift: estimate of D*_t(x) − D_t(x), (B, *S): how far the reward pulls the mean of x1.
        ess: effective sample size of the draws' weights, (B,), from 1 to the number of draws.
        reward: mean reward of the draws, (B,), for the progress bar.
        draws: how many draws were made at each state, (B,).
        denoiser: D_t(x), (B, *S), where the estimator computed it on its way; else None.
        x1: some of the draws (N, B, *S), to be looked at; None where none were made.
    """

    value: Tensor
    error: Tensor
    shift: Tensor
    ess: Tensor
    reward: Tensor
    draws: Tensor
    denoiser: Tensor | None = None
    x1: Tensor | None = None

    def rows(self, rows: Tensor) -> Estimate:
        """The estimate at some of the states, given by their numbers."""
        denoiser = None if self.denoiser is None else self.denoiser[rows]
        return Estimate(
            value=self.value[rows],
            error=self.error[rows],
            shift=self.shift[rows],
            ess=self.ess[rows],
            reward=self.reward[rows],
            draws=self.draws[rows],
            denoiser=denoiser,
            x1=None if self.x1 is None else self.x1[:, rows],
        )

    def means(self) -> dict[str, Tensor]:
        """Means over the states, () each; that of the error is not finite where one is not known.

        See `known`.
        """
        names = ("reward", "value", "ess", "draws", "error")
        columns = torch.stack([getattr(self, name).double() for name in names])
        return dict(zip(names, columns.mean(1).unbind(), strict=True))

    def numbers(self) -> dict[str, float]:
        """The same as floats, for the record of a step; that of the error only where it is known.

        Raises:
            AlignError: a check of the step under way failed.
        """
        return known(read(self.means()))


def known(numbers: dict[str, float]) -> dict[str, float]:
    """Numbers for the record without the mean of errors, where one of these is not known."""
    return {k: v for k, v in numbers.items() if k != "error" or math.isfinite(v)}
