"""Unsteered samples as a yardstick: V_0, and how far steered samples are from the base model.

For any law q of samples, and p*(x) = p(x) e^{r(x) − V_0} with V_0 = log E_p[e^r]:

    KL(q | p) = E_q[r] − V_0 + KL(q | p*) ≥ E_q[r] − V_0,   with equality for q = p* alone.

Reference: Asymptotic evaluation of certain Markov process expectations for large time I, Donsker,
Varadhan, 1975, doi:10.1002/cpa.3160280102 (V_0 = max_q E_q[r] − KL(q | p)).
"""

from __future__ import annotations

import math
from typing import final

import attrs
import torch
from torch import Tensor

FEW = 10.0
"""With a smaller effective number of unsteered samples V̂_0 is not to be relied on."""


def deviation(numbers: Tensor) -> float:
    """Standard deviation of numbers (M,), M > 1, also where no float holds their squares."""
    numbers = numbers.double()
    size = float(numbers.abs().max())
    if not 1e-100 < size < 1e100 and 0 < size < math.inf:
        return size * float((numbers / size).std())
    return float(numbers.std())


def _weights_of_best(count: int, n: int) -> Tensor:
    """The chance of each of `count` sorted samples to be the largest of n of them, (count,)."""
    place = torch.arange(1, count + 1, dtype=torch.float64)
    ways = torch.lgamma(place) - torch.lgamma((place - n + 1).clamp(min=1)) - math.lgamma(n)
    all_ways = math.lgamma(count + 1) - math.lgamma(count - n + 1) - math.lgamma(n + 1)
    return torch.where(place >= n, (ways - all_ways).exp(), 0.0)


@final
@attrs.frozen(eq=False)
class BaseRewardStats:
    """r of M unsteered samples, (M,)."""

    r: Tensor

    @property
    def value(self) -> float:
        """V̂_0 = log (1/M) Σ e^r; on average too low, by about half its squared error."""
        return float(torch.logsumexp(self.r.double(), 0)) - math.log(len(self.r))

    @property
    def ess(self) -> float:
        """(Σ e^r)² / Σ e^{2r}: how many of the samples V̂_0 rests on."""
        return self._ess(1.0)

    @property
    def error(self) -> float:
        """Standard error of V̂_0 by the delta method, √((M / ess − 1) / (M − 1))."""
        count = len(self.r)
        if count < 2:
            return math.inf
        return math.sqrt(max(count / self.ess - 1, 0) / (count - 1))

    def tilted(self, least: float = 5.0, points: int = 60) -> list[tuple[float, float, float]]:
        """The laws p_λ ∝ p e^{λ r}: (λ, E_λ[r], KL(p_λ | p)), for λ from 0 up.

        No law with this KL has a higher mean of r. Samples weigh w ∝ e^{λ r}; the list ends where
        their effective number falls to `least`, or where λ makes no difference any more.
        """
        spread = deviation(self.r) if len(self.r) > 1 else 0.0
        if not spread or self._ess(0.0) < least:
            return []
        high = 1 / spread
        for _ in range(6):
            if self._ess(high) < least:
                break
            high *= 2
        low = 0.0
        for _ in range(40):
            # The effective number falls with λ: its logarithm has slope 2 (E_λ[r] − E_2λ[r]).
            middle = (low + high) / 2
            low, high = (middle, high) if self._ess(middle) >= least else (low, middle)
        return [(k, *self.law(k)) for k in (low * (n / (points - 1)) ** 2 for n in range(points))]

    def best_of(self) -> list[tuple[int, float, float]]:
        """The best of n samples: (n, E[max r], its standard error), for n = 1, 2, 4, ..., M/2.

        The mean is over all choices of n of the M samples, which has no bias: the sorted r have
        weights C(i − 1, n − 1) / C(M, n). The error is the jackknife's.
        """
        r, count = self.r.double().sort().values, len(self.r)
        found = list[tuple[int, float, float]]()
        n = 1
        while 2 * n <= count:
            whole, less = _weights_of_best(count, n), _weights_of_best(count - 1, n)
            # Without sample j, those below it keep their place, and those above it lose one.
            below = torch.cat((r.new_zeros(1), (less * r[:-1]).cumsum(0)))
            above = torch.cat(((less * r[1:]).flip(0).cumsum(0).flip(0), r.new_zeros(1)))
            without = below + above
            error = math.sqrt((count - 1) * float((without - without.mean()).square().mean()))
            found.append((n, float((whole * r).sum()), error))
            n *= 2
        return found

    def bound(self, mean: float) -> tuple[float, float, float]:
        """The largest λ E_q[r] − log E_p[e^{λ r}] of a law q with this mean of r.

        KL(q | p) is no less; the bound is KL(p_λ | p) where p_λ has the mean. λ goes no further
        than where its effective number of samples falls to `FEW`.

        Returns:
            The bound, λ, and the effective number.
        """
        r = self.r.double()
        sign = 1.0 if mean >= float(r.mean()) else -1.0
        spread = deviation(self.r) if len(self.r) > 1 else 0.0
        if not spread or len(self.r) < FEW:
            return 0.0, 0.0, float(len(self.r))
        low, high = 0.0, 64 / spread
        for _ in range(60):
            # The mean of r rises with λ, and the effective number falls.
            tilt = (low + high) / 2
            reached = sign * (self.law(sign * tilt)[0] - mean) >= 0
            low, high = (low, tilt) if reached or self._ess(sign * tilt) < FEW else (tilt, high)
        tilt = sign * low
        evidence = float(torch.logsumexp(tilt * r, 0)) - math.log(len(r))
        return tilt * mean - evidence, tilt, self._ess(tilt)

    def _ess(self, tilt: float) -> float:
        return 1 / float(torch.softmax(tilt * self.r.double(), 0).square().sum())

    def law(self, tilt: float) -> tuple[float, float]:
        """E_λ[r] and KL(p_λ | p) = λ E_λ[r] − log E[e^{λ r}] of p_λ ∝ p e^{λ r}."""
        r = self.r.double()
        mean = float((torch.softmax(tilt * r, 0) * r).sum())
        return mean, tilt * mean - float(torch.logsumexp(tilt * r, 0)) + math.log(len(r))


@final
@attrs.frozen(kw_only=True)
class Divergence:
    """What an arm gained, and how far it went for it: KL(q | p) in nats, of its samples' law q.

    Attributes:
        reward: mean of r over the samples, an estimate of E_q[r], with the weights that all arms
            are compared by; all other numbers are of r with the arm's own.
        reward_error: its standard error; None with a single sample.
        at_least: E_q[r] − V̂_0, which is KL(q | p) where q is the tilted law, and less elsewhere.
            No divergence is below 0, so that a negative number says nothing of it.
        at_least_error: standard error of both terms together, by the delta method.
        ess: how many unsteered samples V̂_0 rests on. With fewer than `FEW` V̂_0 is too low,
            and so `at_least` too high.
        at_most: KL(q | p) by the mode's own account, or a bound of it from above.
        base: the arm whose model is the base model p; "" for the arm's own model.
    """

    reward: float
    reward_error: float | None = None
    at_least: float | None = None
    at_least_error: float | None = None
    ess: float | None = None
    at_most: float | None = None
    base: str = ""

    @property
    def says_nothing(self) -> bool:
        """Whether the bound from below is below 0, where any divergence is."""
        return self.at_least is not None and self.at_least < 0

    @classmethod
    def of(
        cls,
        r: Tensor,
        baseline: BaseRewardStats | None,
        at_most: float | None,
        *,
        compared: Tensor | None = None,
    ) -> Divergence:
        """The divergence of samples with these r (B,), which `compared` says in common weights."""
        mean, error = _mean(r)
        gain = cls(reward=mean, reward_error=error, at_most=at_most)
        if compared is not None:
            shown, shown_error = _mean(compared)
            gain = attrs.evolve(gain, reward=shown, reward_error=shown_error)
        if at_most == 0:
            # The base model itself: there is nothing to estimate.
            return attrs.evolve(gain, at_least=0.0, at_least_error=0.0)
        if baseline is None:
            return gain
        both = None if error is None else math.hypot(error, baseline.error)
        # Of a reward that is the same for all samples the difference is 0, but for its last bits.
        equal = math.isclose(mean, baseline.value, rel_tol=1e-12, abs_tol=1e-12)
        at_least = 0.0 if equal else mean - baseline.value
        return attrs.evolve(gain, at_least=at_least, at_least_error=both, ess=baseline.ess)

    @classmethod
    def elsewhere(
        cls, r: Tensor, baseline: BaseRewardStats | None, base: str, *, compared: Tensor
    ) -> Divergence:
        """The divergence from the model of another arm, as of one that was tuned from it.

        Samples of a tuned model follow no tilted law of this r, so that the bound from below is the
        best of all λ r; see `BaseRewardStats.bound`. From above nothing is known.
        """
        shown, shown_error = _mean(compared)
        gain = cls(reward=shown, reward_error=shown_error, base=base)
        if baseline is None:
            return gain
        mean, error = _mean(r)
        bound, tilt, ess = baseline.bound(mean)
        count = len(baseline.r)
        of_base = math.sqrt(max(count / ess - 1, 0) / max(count - 1, 1))
        both = None if error is None else math.hypot(tilt * error, of_base)
        return attrs.evolve(gain, at_least=max(bound, 0.0), at_least_error=both, ess=ess)


def _mean(r: Tensor) -> tuple[float, float | None]:
    """Mean and its standard error, which a single number has none of."""
    r = r.double()
    return float(r.mean()), deviation(r) / math.sqrt(len(r)) if len(r) > 1 else None
