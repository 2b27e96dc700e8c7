"""A tilted law as far as it is known, and how far samples are from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, final

import attrs
import torch
from torch import Tensor

from align.core.baseline import BaseRewardStats
from align.core.errors import PartError
from align.core.estimator import ClosedForm
from align.core.model import Condition, DataSampler, NoisyState
from align.core.problem import Problem
from align.core.quadratic import Form
from align.core.reward import Quadratic
from align.core.streams import Streams
from align.metrics.mmd import SCALES, gaussian, squared_mmd
from align.metrics.sliced_wasserstein import sliced_w2
from align.models.mixture import GaussianMixture
from align.modes.pool import own_samples

_NEIGHBOURS: Final = 5  # the distance to the k-th neighbour says how dense a law is
_FEWEST: Final = 3  # samples of a mode whose spread counts
_COMPARED: Final = 512  # draws of the law whose kernel is computed
_TINY: Final = 1e-12


@final
@attrs.frozen(eq=False)
class TiltedLaw:
    """What is known of p*(x) ∝ p(x) e^{r(x)}.

    Attributes:
        x1: draws of it, (R, *S).
        base: r of base samples, (M,).
        value: V₀ = log E_p[e^r].
        reward: the mean of r.
        ess: effective number of the weighed base samples that `x1` are of; None for exact draws.
        pool: base samples that other draws are made of where there are no exact ones, (M/2, *S),
            and their rewards.
    """

    x1: Tensor
    base: Tensor
    value: float
    reward: float
    ess: float | None
    pool: tuple[Tensor, Tensor] | None
    _best: tuple[Tensor, Tensor] = attrs.field(init=False)

    @_best.default
    def _best_default(self) -> tuple[Tensor, Tensor]:
        """Divergence and mean r of the laws p e^{λ r}, for λ that rise, (L,) each."""
        base = self.base.cpu()
        scales = torch.logspace(-2, 2, 121, dtype=torch.float64)[:, None]
        log = torch.log_softmax(scales * base, 1)
        means = (log.exp() * base).sum(1)
        apart = (log.exp() * log).sum(1) + math.log(len(base))
        return apart, means

    @classmethod
    def of(cls, problem: Problem, streams: Streams, count: int, flow_steps: int) -> TiltedLaw:
        """The law of a problem: exact where the model knows it, else by weighed base samples.

        Weights e^r make base samples a self-normalised estimate of p*, with an error that falls as
        one over the root of their effective number. Half of them become the draws, the other half
        draws to compare those with.

        Args:
            problem: its samples have one prompt.
            streams: of the run.
            count: R; there are M = 2 R base samples.
            flow_steps: Euler steps of base samples of a model that cannot draw data.

        Raises:
            PartError: the samples have several prompts.
        """
        if len(set(problem.prompts)) > 1:
            raise PartError("model.prompt: the tilted law of one prompt is checked; name one")
        numbers = streams.numbered(0, 2 * count).fold_in("tilted law")
        cond = problem.condition(range(2 * count))
        x1 = _base(problem, cond, numbers, flow_steps)
        rewards = problem.reward_of(x1[None], cond)[0].double()
        if (exact := _closed_form(problem)) is not None:
            draws = exact.draw_tilted(problem.reward, numbers.rows(slice(count)))
            here = problem.reward_of(draws[None], cond.rows(slice(count)))[0].double()
            noisy = NoisyState(torch.zeros_like(draws[:1]), draws.new_zeros(1), cond.rows(slice(1)))
            value = float(exact.value(noisy, problem.reward))
            return cls(draws, rewards, value, float(here.mean()), None, None)
        first, second = slice(count), slice(count, None)
        base = BaseRewardStats(rewards)
        return cls(
            x1=_resampled(x1[first], rewards[first], count, numbers.fold_in("first")),
            base=rewards,
            value=base.value,
            reward=float((torch.softmax(rewards, 0) * rewards).sum()),
            ess=base.ess,
            pool=(x1[second], rewards[second]),
        )

    def others(self, problem: Problem, streams: Streams) -> Tensor:
        """Other draws of the law, one for each row of `streams`: (B, *S)."""
        streams = streams.fold_in("other draws")
        if self.pool is not None:
            return _resampled(*self.pool, len(streams.samples), streams)
        exact = _closed_form(problem)
        assert exact is not None
        return exact.draw_tilted(problem.reward, streams)

    def best_reward(self, nats: float) -> float:
        """The highest mean of r that any law q with KL(q | p) = `nats` has.

        By Gibbs' variational principle it is that of the law p e^{λ r} with this divergence, which
        is λ E[r] − log E_p[e^{λ r}]. Means are those of the weighed base samples.
        """
        apart, means = self._best
        place = int(torch.searchsorted(apart, max(0.0, nats)))
        if place == 0:
            return float(means[0])
        if place == len(means):
            return float(means[-1])
        share = (nats - apart[place - 1]) / (apart[place] - apart[place - 1]).clamp(min=_TINY)
        return float(means[place - 1] + share * (means[place] - means[place - 1]))


def measures(
    problem: Problem, law: TiltedLaw, x1: Tensor, rewards: Tensor, *, known: float | None
) -> Mapping[str, float]:
    """How far one set of samples is from the law, by what is measured; see `TiltCheck`.

    Args:
        problem: has the model and the reward.
        law: the tilted law.
        x1: the samples, (B, *S).
        rewards: r of the samples, (B,).
        known: their KL from the base model by the method's own account, if it has any.
    """
    with torch.no_grad():
        data, others = (problem.model.decode(x).flatten(1).double() for x in (x1, law.x1))
    few = others[:_COMPARED]
    width = float(torch.pdist(few).median().clamp(min=_TINY))
    mean = float(rewards.mean())
    nats = divergence(rewards, law.base)
    found = {
        "SW2": sliced_w2(data, others),
        "MMD": squared_mmd(data, few, gaussian([scale * width for scale in SCALES])),
        "mode masses": _masses_apart(problem, x1, law.x1),
        "spread in modes": _spread(problem, x1, law.x1),
        "r": mean,
        "r above exact": mean - law.reward,
        "KL at least": mean - law.value,
        "KL of r": nats,
        "KL at most": math.nan if known is None else known,
        "r lost at equal nats": law.best_reward(nats) - mean,
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}


def divergence(q: Tensor, p: Tensor) -> float:
    """KL(q | p) in nats of two laws on the line, from samples (N,) and (M,).

    Of distances to the k-th neighbour, ν among the others' and ρ among its own:
    mean log(ν/ρ) + log(M/(N − 1)). It is consistent, and biased where q has mass and p no samples.

    Reference: Divergence Estimation for Multidimensional Densities Via k-Nearest-Neighbor
    Distances, Wang, Kulkarni, Verdú, 2009, doi:10.1109/TIT.2009.2016060, Eq. 5.
    """
    k = min(_NEIGHBOURS, len(q) - 1, len(p))
    if k < 1:
        return math.nan
    own, theirs = (
        (q[:, None] - others).abs().topk(count, 1, largest=False).values[:, -1]
        for others, count in ((q, k + 1), (p, k))
    )
    logs = (theirs.clamp(min=_TINY) / own.clamp(min=_TINY)).log()
    return float(logs.mean()) + math.log(len(p) / (len(q) - 1))


def _base(problem: Problem, cond: Condition, streams: Streams, steps: int) -> Tensor:
    """Samples (M, *S) of the base model, one for each row of `streams`."""
    model = problem.model
    sampler = model.capability(DataSampler)
    if sampler is not None:
        return sampler.draw(streams).to(model.dtype)
    return own_samples(model, cond, streams.fold_in("data"), steps, problem.chunks.cap)


def _closed_form(problem: Problem) -> ClosedForm | None:
    """The model, if it knows the tilted law of this reward."""
    for term in problem.reward.optimised:
        affine = term.transform is None or term.transform.affine is not None
        if term.reward.capability(Quadratic) is None or not affine:
            return None
    return problem.model.capability(ClosedForm)


def _resampled(x1: Tensor, log_weights: Tensor, count: int, streams: Streams) -> Tensor:
    """So many of the states, as often as their weights say (systematic resampling)."""
    start = streams.rows(slice(1)).uniform(()).to(log_weights)
    places = (torch.arange(count).to(log_weights) + start) / count
    edges = torch.softmax(log_weights, 0).cumsum(0)
    chosen = torch.searchsorted(edges, places).clamp(max=len(x1) - 1)
    order = streams.numbered(0, count).fold_in("order").uniform(()).argsort()
    return x1[chosen[order.to(chosen.device)]]


def _masses_apart(problem: Problem, x1: Tensor, others: Tensor) -> float:
    """Half the sum of differences between the modes' shares, from 0 to 1; NaN without modes."""
    mixture = problem.model.capability(ClosedForm)
    if not isinstance(mixture, GaussianMixture):
        return math.nan
    count = mixture.prior.means.shape[1]
    shares = [
        torch.bincount(mixture.prior.log_terms(x).argmax(1), minlength=count) / len(x)
        for x in (x1, others)
    ]
    return float((shares[0] - shares[1]).abs().sum() / 2)


def _spread(problem: Problem, x1: Tensor, others: Tensor) -> float:
    """Deviation from the mean of the own mode, over that of the law; NaN with too few samples.

    Along the directions that a quadratic reward sees, and all of them for other rewards. A model
    that knows no modes has one. Modes count as often as they have samples.
    """
    mixture = problem.model.capability(ClosedForm)
    sets = [x1.flatten(1).double(), others.flatten(1).double()]
    modes = [torch.zeros(len(x), dtype=torch.int64, device=x.device) for x in sets]
    if isinstance(mixture, GaussianMixture):
        modes = [mixture.prior.log_terms(x).argmax(1) for x in sets]
    if _closed_form(problem) is not None:
        form = Form.of(problem.reward, sets[0])
        force = form.quadratic.abs() + form.linear.abs()
        sets = [x @ form.axes[:, force > 1e-9 * force.max()] for x in sets]
    mine = theirs = 0.0
    for mode in modes[0].unique().tolist():
        rows = [x[each == mode] for x, each in zip(sets, modes, strict=True)]
        if min(map(len, rows)) >= _FEWEST:
            mine += len(rows[0]) * float(rows[0].var(0).sum())
            theirs += len(rows[0]) * float(rows[1].var(0).sum())
    return math.sqrt(mine / theirs) if theirs > 0 else math.nan
