"""Value estimators: how good is a noisy state, and where does the reward pull it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, final

import attrs
from torch import Tensor

from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.streams import Streams


@final
@attrs.frozen(kw_only=True, eq=False)
class Estimate:
    """What an estimator says about B noisy states.

    Attributes:
        value: estimate of V_t(x) = log E[e^{r(x1)} | x_t = x], (B,), in units of the reward.
        error: standard error of the value, (B,); infinite where one draw says nothing of it, 0
            where the value is exact for the sampler.
        shift: estimate of D*_t(x) − D_t(x), (B, *S): how far the reward pulls the mean of x1.
        ess: effective sample size of the draws' weights, (B,), from 1 to the number of draws.
        reward: mean reward of the draws, (B,), for the progress bar.
        draws: how many draws were made at each state, (B,).
        denoiser: D_t(x), (B, *S), where the estimator came to know it at no cost.
    """

    value: Tensor
    error: Tensor
    shift: Tensor
    ess: Tensor
    reward: Tensor
    draws: Tensor
    denoiser: Tensor | None = None

    def rows(self, rows: Tensor) -> Estimate:
        """The estimate at some of the states, given by their numbers."""
        known = None if self.denoiser is None else self.denoiser[rows]
        return Estimate(
            value=self.value[rows],
            error=self.error[rows],
            shift=self.shift[rows],
            ess=self.ess[rows],
            reward=self.reward[rows],
            draws=self.draws[rows],
            denoiser=known,
        )

    def numbers(self) -> dict[str, float]:
        """Means over the states, for the record; no error where one draw says nothing of it."""
        told = {"reward": self.reward, "value": self.value, "ess": self.ess, "draws": self.draws}
        if bool(self.error.isfinite().all()):
            told["error"] = self.error
        return {name: float(number.double().mean()) for name, number in told.items()}


@attrs.frozen(kw_only=True)
class ValueEstimator(ABC):
    """Estimates V_t and the shift D* − D that follows from it.

    Attributes:
        needs_gradient: whether reward and sampler must be differentiable.
        needs_sampler: whether it draws from the posterior.
        needs_model: the capability the model must have, or None.
    """

    kind: ClassVar[str]
    needs_gradient: ClassVar[bool]
    needs_sampler: ClassVar[bool]
    needs_model: ClassVar[type | None]

    @abstractmethod
    def estimate(self, problem: Problem, noisy: NoisyState, *, streams: Streams) -> Estimate:
        """Value and shift at the states of `noisy`."""


class Quadratic(ABC):
    """Capability of a reward: it is R(x) = −½ xᵀ P x + hᵀ x + c."""

    @abstractmethod
    def quadratic(self) -> tuple[Tensor, Tensor, Tensor]:
        """P (D, D), symmetric, h (D,) and c ()."""


class ClosedForm(ABC):
    """Capability of a model: the value and the tilted law are known exactly.

    Both raise PartError when the reward is not one they know, for instance not `Quadratic`.
    """

    @abstractmethod
    def value(self, noisy: NoisyState, reward: WeightedReward) -> Tensor:
        """V_t(x) = log E[e^{r(x1)} | x_t = x], (B,), differentiable in `noisy.x`."""

    @abstractmethod
    def draw_posterior(self, noisy: NoisyState, draws: int, streams: Streams) -> Tensor:
        """Independent draws (N, B, *S) from p(x1 | x_t = x)."""

    @abstractmethod
    def draw_tilted(self, reward: WeightedReward, streams: Streams) -> Tensor:
        """Clean data from p*(x) ∝ p(x) e^{r(x)}, one row for each row of `streams`: (B, *S)."""
