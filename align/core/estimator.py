"""Value estimators: the value of a noisy state, and how a reward moves its denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final

import attrs
from torch import Tensor

from align.core.attribution import attributed, seen
from align.core.checks import checks, count_not_finite, extent
from align.core.errors import AlignError, ContractError, DivergedError, NotFiniteError
from align.core.estimate import Estimate
from align.core.model import NoisyState
from align.core.problem import Estimator, Problem
from align.core.reward import WeightedReward
from align.core.streams import Streams

RUNAWAY: Final = 1e6
"""States larger than that are no flow's: guidance has driven them there."""


@attrs.frozen(kw_only=True)
class ValueEstimator(ABC):
    """Estimates V_t and the shift D* − D that follows from it.

    A subclass states a property either as a class attribute, or as a property where it depends on
    the options.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def needs_gradient(self) -> bool:
        """Whether reward and sampler must be differentiable."""

    @property
    @abstractmethod
    def needs_sampler(self) -> bool:
        """Whether it draws from the posterior."""

    @property
    @abstractmethod
    def needs_model(self) -> type | None:
        """The capability that the model must have, or None."""

    @property
    def needs_quadratic(self) -> bool:
        """Whether rewards must be `Quadratic`, without clip or ranks."""
        return False

    @abstractmethod
    def estimate(self, problem: Problem, noisy: NoisyState, *, streams: Streams) -> Estimate:
        """Value and shift at the states of `noisy`."""


class Prepares(ABC):
    """Capability of an estimator: it makes something once that all samples share."""

    @abstractmethod
    def prepare(self, problem: Problem, streams: Streams) -> None:
        """Make it for the problem's samples; `estimate` makes what is not there yet.

        A plan calls it to count what does not grow with the number of samples.
        """


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


def estimate_value(
    estimator: Estimator, problem: Problem, noisy: NoisyState, *, streams: Streams
) -> Estimate:
    """What `estimator.estimate` returns, checked; the estimator sees a copy of `noisy`.

    Raises:
        ContractError: the result is no estimate at these states.
        DivergedError: it is not finite, at states that no flow has.
        PartError: the estimator raised something else than a message to the user.
    """
    who = f"estimator '{getattr(estimator, 'kind', type(estimator).__name__)}'"
    with attributed(who):
        estimate = estimator.estimate(problem, noisy.copy(), streams=streams)
        if not isinstance(estimate, Estimate):
            raise ContractError(f"{who} returned {seen(estimate)}, expected an Estimate")
        expected = {"value": noisy.t.shape, "ess": noisy.t.shape, "shift": noisy.x.shape}
        for name, shape in expected.items():
            number = getattr(estimate, name)
            if number.shape != shape:
                raise ContractError(
                    f"{who}: its {name} is {tuple(number.shape)}, expected {tuple(shape)}"
                )
    checked = [count_not_finite(getattr(estimate, name)) for name in expected]

    def error(numbers: Sequence[float]) -> AlignError | None:
        low, high, *bad = numbers
        names = [name for name, count in zip(expected, bad, strict=True) if count]
        if names and max(-low, high) > RUNAWAY:
            return DivergedError(
                f"guidance drove states to {max(-low, high):.2g}, too far for {who}; use more"
                " steps, guidance_norm = 'clip', or a lower weight"
            )
        if names:
            return NotFiniteError(f"{who}: its {names[0]} has numbers that are not finite")
        return None

    checks().add(error, *extent(noisy.x), *checked)
    return estimate
