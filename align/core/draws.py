"""Posterior draws with their rewards: made once, in chunks, for every estimator.

`Problem.chunks` bound the rows that are in memory at once. They change results by float rounding
alone: draw n of sample i is the same in any chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.estimate import Estimate
from align.core.model import NoisyState
from align.core.option import option
from align.core.path import expand
from align.core.problem import Problem
from align.core.sampler import draw_posterior
from align.core.streams import Streams

Count: TypeAlias = int | Literal["auto"]

FIRST = 4
"""Draws that every state gets when their number is "auto"."""


def draws_option(default: int = 4) -> Any:
    """The option `draws` of an estimator."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Count) -> None:
        if value != "auto" and value < 1:
            raise ValueError(f"'{attribute.name}' must be at least 1 or 'auto', got {value}")

    text = "posterior draws N at each state; 'auto' doubles them where few of them carry the weight"
    return option(text, default=default, check=check, grows="rows")


def budget_option() -> Any:
    """The option `budget` of an estimator."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: int) -> None:
        if value < FIRST:
            raise ValueError(f"'{attribute.name}' must be at least {FIRST}, got {value}")

    return option("most draws at a state when `draws` is 'auto'", default=32, check=check)


@final
@attrs.frozen(eq=False)
class Draws:
    """N draws of x1 at each of B states, with their rewards.

    Where a state has fewer than N draws, the missing ones have reward −∞, and so weight 0.

    Attributes:
        x1: the draws, (N, B, *S), without a graph.
        rewards: r(x1), (N, B).
        reward_grads: ∂r(x1)/∂x through the sampler, (N, B, *S), or ∂r(x1)/∂x1 if these were asked
            for; None if they were not computed.
        counts: number of draws at each state, (B,).
        point: whether there is one draw at each state, the denoiser.
    """

    x1: Tensor
    rewards: Tensor
    reward_grads: Tensor | None
    counts: Tensor
    point: bool

    @cached_property
    def weights(self) -> Tensor:
        """w = softmax(r) over the draws, (N, B)."""
        return torch.softmax(self.rewards, 0)

    @property
    def equal(self) -> Tensor:
        """1/N for each draw that was made, (N, B)."""
        return self.rewards.isfinite().to(self.rewards) / self.counts

    @cached_property
    def ess(self) -> Tensor:
        """(Σ w)² / Σ w², (B,)."""
        return 1 / self.weights.square().sum(0)

    def estimate(self, shift: Tensor) -> Estimate:
        """The estimate with this shift (B, *S); its value is V̂ = log (1/N) Σ e^r.

        e^V̂ is unbiased; V̂ itself is too low by about half its squared error. The standard error
        is that of a logarithm of a mean, √((N / ess − 1) / (N − 1)).
        """
        counts, ess = self.counts.to(self.rewards), self.ess
        spread = ((counts / ess - 1).clamp(min=0) / (counts - 1).clamp(min=1)).sqrt()
        single = torch.full_like(spread, 0.0 if self.point else torch.inf)
        present = self.rewards.isfinite()
        return Estimate(
            value=torch.logsumexp(self.rewards, 0) - counts.log(),
            error=torch.where(self.counts > 1, spread, single),
            shift=shift,
            ess=ess,
            reward=torch.where(present, self.rewards, 0).sum(0) / counts,
            draws=self.counts,
            denoiser=self.x1[0] if self.point else None,
            x1=self.x1[:FIRST].detach(),
        )

    def mean(self, weights: Tensor) -> Tensor:
        """Σ_n weights_n x1_n, (B, *S), of weights (N, B)."""
        return weighted_mean(self.x1, weights)


def weighted_mean(terms: Tensor, weights: Tensor) -> Tensor:
    """Σ_n w_n f_n, (B, *S), of terms f (N, B, *S) and weights w (N, B)."""
    return (expand(weights.to(terms), terms) * terms).sum(0)


def variance(terms: Tensor, weights: Tensor) -> Tensor:
    """Σ_n w_n ‖f_n − Σ_m w_m f_m‖² / (1 − Σ_n w_n²), (B,): summed over the elements of a term.

    The weights (N, B) sum to 1. Equal weights give the sample variance. Where one draw has all the
    weight, the variance is 0.
    """
    differences = terms - weighted_mean(terms, weights)
    squares = differences.flatten(2).square().sum(2).to(weights)
    degrees = (1 - weights.square().sum(0)).clamp(min=torch.finfo(weights.dtype).tiny)
    return (weights * squares).sum(0) / degrees


def make_draws(
    problem: Problem,
    noisy: NoisyState,
    *,
    draws: Count,
    budget: int,
    gradient: bool,
    streams: Streams,
    through_sampler: bool = True,
) -> Draws:
    """Make draws at the states of `noisy`, score them, and differentiate their rewards if asked to.

    With `draws` = "auto" every state gets 4 draws. Where their effective sample size is below 3,
    the number is doubled, until the size is reached or `budget` is spent. A state's number depends
    on its own draws alone. The value is then not exactly unbiased, since the number of draws
    depends on their rewards.

    Costs a draw and a reward each, and with `gradient` a backward pass through both.

    Args:
        problem: has the model, its sampler and the reward.
        noisy: B states.
        draws: their number at each state, or "auto".
        budget: the most draws at a state with "auto".
        gradient: whether to differentiate the rewards by the states.
        streams: random numbers, one row a state.
        through_sampler: whether rewards are differentiated by the states, or by the draws alone.

    Raises:
        PartError: the problem has no sampler.
    """
    make = partial(_differentiated, through_sampler=through_sampler) if gradient else _plain
    if draws != "auto":
        return _fixed(problem, noisy, draws, make, streams)
    result = _fixed(problem, noisy, FIRST, make, streams)
    count = FIRST
    while not result.point and count < budget:
        low = torch.nonzero(result.ess < 0.75 * FIRST)[:, 0]
        if not len(low):
            break
        extra = min(count, budget - count)
        later = streams.rows(low).after(count)
        more = _fixed(problem, noisy.rows(low), extra, make, later)
        result = _extended(result, low, more)
        count += extra
    return result


def _extended(draws: Draws, rows: Tensor, more: Draws) -> Draws:
    """`draws` with `more` of them at some rows, and missing draws elsewhere."""

    def join(before: Tensor, after: Tensor, missing: float) -> Tensor:
        blank = before.new_full((len(after), *before.shape[1:]), missing)
        blank[:, rows] = after
        return torch.cat((before, blank))

    reward_grads = None
    if draws.reward_grads is not None and more.reward_grads is not None:
        reward_grads = join(draws.reward_grads, more.reward_grads, 0.0)
    counts = draws.counts.index_add(0, rows, more.counts)
    rewards = join(draws.rewards, more.rewards, -torch.inf)
    return Draws(join(draws.x1, more.x1, 0.0), rewards, reward_grads, counts, draws.point)


def _fixed(
    problem: Problem,
    noisy: NoisyState,
    draws: int,
    make: Callable[[Problem, NoisyState, int, Streams], tuple[Tensor, ...]],
    streams: Streams,
) -> Draws:
    """The same number of draws at every state, made in chunks."""
    sampler, states = problem.sampler, len(noisy.x)
    if sampler is None:
        raise PartError("an estimator that draws needs a sampler")
    draws = 1 if sampler.point else draws
    x1, rewards, *reward_grads = make(problem, noisy, draws, streams)
    counts = torch.full((states,), draws, device=x1.device)
    return Draws(x1, rewards, reward_grads[0] if reward_grads else None, counts, sampler.point)


@torch.no_grad()
def _plain(problem: Problem, noisy: NoisyState, draws: int, streams: Streams) -> tuple[Tensor, ...]:
    """Draws (N, B, *S) and their rewards (N, B)."""
    assert problem.sampler is not None
    states, cap, stacks = len(noisy.x), problem.chunks.cap, list[tuple[Tensor, ...]]()
    draws_at_once, rows = max(1, cap // max(1, states)), max(1, min(states, cap))
    for start in range(0, draws, draws_at_once):
        count, parts = min(draws_at_once, draws - start), list[tuple[Tensor, ...]]()
        later = streams.after(start) if start else streams
        for cut in [slice(place, place + rows) for place in range(0, states, rows)]:
            some = noisy.rows(cut)
            x1 = draw_posterior(
                problem.sampler, problem.model, some, draws=count, streams=later.rows(cut)
            )
            # What compares must see all draws of a sample together.
            scores = () if problem.reward.compares else (problem.reward_of(x1, some.cond),)
            parts.append((x1, *scores))
        stacks.append(tuple(torch.cat(part, 1) for part in zip(*parts, strict=True)))
    made = tuple(torch.cat(part) for part in zip(*stacks, strict=True))
    return made if len(made) == 2 else (*made, problem.reward_of(made[0], noisy.cond))


def _differentiated(
    problem: Problem, noisy: NoisyState, draws: int, streams: Streams, *, through_sampler: bool
) -> tuple[Tensor, ...]:
    """Draws (N, B, *S), their rewards (N, B) and the gradients of these (N, B, *S).

    The gradients are by the states, through the sampler, or by the draws.
    """
    # One row a draw: row (n, b) of the gradient then belongs to draw n of state b alone.
    tiled, spread = noisy.tile(draws), streams.spread(draws)

    def piece(rows: slice) -> tuple[Tensor, ...]:
        assert problem.sampler is not None
        some = tiled.rows(rows)
        x = some.x.detach().requires_grad_(through_sampler)
        with torch.set_grad_enabled(through_sampler):
            x1 = draw_posterior(
                problem.sampler,
                problem.model,
                NoisyState(x, some.t, some.cond),
                draws=1,
                streams=spread.rows(rows),
            )
        if not through_sampler:
            x1 = x1.detach().requires_grad_()
        with torch.enable_grad():
            rewards = problem.reward_of(x1, some.cond)
            by = x if through_sampler else x1
            (reward_grads,) = torch.autograd.grad(rewards.sum(), by)
        return x1[0].detach(), rewards[0].detach(), reward_grads.reshape(x.shape)

    pieces = problem.chunks.cut("gradient of the reward", len(tiled.x), piece)
    parts = (torch.cat(part) for part in zip(*pieces, strict=True))
    return tuple(part.unflatten(0, (draws, len(noisy.x))) for part in parts)
