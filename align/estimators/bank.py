"""Value and shift from a bank of the model's own samples, without a network call at a state."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Final, final
from weakref import WeakKeyDictionary

import attrs
import torch
from torch import Tensor

from align.core.estimate import Estimate
from align.core.estimator import Prepares, ValueEstimator
from align.core.model import Condition, DataSampler, FlowModel, NoisyState, Scheduled
from align.core.option import at_least, option
from align.core.path import Path, expand, times_of
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.streams import Streams


@final
@attrs.frozen(eq=False)
class _Samples:
    """Samples x1 (M, *S) of a model for one prompt, with the rewards r (M,) that a reward gives."""

    x1: Tensor
    rewards: Tensor
    reward: WeightedReward


_BANKS: Final[WeakKeyDictionary[FlowModel, dict[tuple[object, ...], _Samples]]] = (
    WeakKeyDictionary()
)
"""What each model has made so far, by prompt, seed and options: once in a run, not at each step."""


def log_likelihoods(path: Path, x: Tensor, t: Tensor, x1: Tensor) -> Tensor:
    """log p(x_t = x | x1) less what x1 does not change, (M, B): −‖x − β x1‖² / (2 α²).

    Args:
        path: the interpolant.
        x: states (B, *S).
        t: their times (B,), less than 1.
        x1: clean states (M, *S).
    """
    x, x1 = x.flatten(1).double(), x1.flatten(1).double()
    alpha, beta = path.alpha(t).double(), path.beta(t).double()
    squares = (beta * x1.square().sum(1)[:, None]) / 2
    return (beta / alpha.square()) * (x1 @ x.mT - squares)


def _rows_by_prompt(cond: Condition) -> list[Tensor]:
    """Numbers (n,) of the rows that each prompt has, prompts in the order in which they come."""
    rows = dict[str, list[int]]()
    for number, prompt in enumerate(cond.prompts):
        rows.setdefault(prompt, []).append(number)
    return [torch.tensor(numbers) for numbers in rows.values()]


@final
@attrs.frozen(kw_only=True)
class Bank(ValueEstimator, Prepares):
    """Slow models, few dimensions: no network call at a state.

    Weighs samples of the base model, made once, by how likely each is to have led to the state. The
    reward needs no gradient.

        π_m ∝ exp(−‖x − β x1_m‖² / (2 α²)),   V̂ = log Σ_m π_m e^{r_m},
        shift = Σ_m w_m x1_m − Σ_m π_m x1_m,   w_m ∝ π_m e^{r_m}.

    π are the weights of importance sampling from p(x1) to p(x1 | x_t), so that V̂ and the shift,
    which is exactly (α²/β) ∇V̂, are consistent as the bank grows. It grows with the dimension,
    though: where one sample has all of π there is no shift, which in large pictures is soon after
    the start; by then guidance has chosen among the samples of the bank.

    There is one bank for each prompt, of samples that depend on the seed alone: draws of the model
    where it has its data's law, else Euler steps of its flow. A run that is made in blocks makes
    one in each of them.

    The formula was derived for align. By its abstract, Lookahead Sample Reward Guidance for
    Test-Time Scaling of Diffusion Models (LiDAR), Kim et al., 2026, arXiv:2602.03211, too has
    guidance in closed form from samples of the model; its equations were not read, so that nothing
    here is said to be theirs.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 20 (the shift, here by
    importance weights).
    """

    kind: ClassVar[str] = "bank"
    needs_gradient: ClassVar[bool] = False
    needs_sampler: ClassVar[bool] = False
    needs_model: ClassVar[type | None] = None

    size: int = option(
        "samples M of the base model in the bank of a prompt",
        default=64,
        check=at_least(2),
        grows="rows",
    )
    flow_steps: int = option(
        "Euler steps from noise to each of them", default=25, check=at_least(1)
    )

    @torch.no_grad()
    def prepare(self, problem: Problem, streams: Streams) -> None:
        """Make the banks of all prompts of the problem's samples."""
        for rows in _rows_by_prompt(problem.cond):
            self._of(problem, problem.cond.rows(rows[:1]), streams)

    @torch.no_grad()
    def estimate(self, problem: Problem, noisy: NoisyState, *, streams: Streams) -> Estimate:
        """Value and shift; costs nothing but arithmetic once the bank is made.

        The bank of a prompt costs M · `flow_steps` network calls and M rewards, when a state with
        that prompt is first seen.
        """
        x = noisy.x
        shift, reward = torch.zeros_like(x), x.new_zeros(len(x))
        value, ess, error = torch.zeros_like(reward), torch.ones_like(reward), reward.clone()
        for rows in _rows_by_prompt(noisy.cond):
            rows = rows.to(x.device)
            bank = self._of(problem, noisy.cond.rows(rows[:1]), streams)
            log_prior = torch.log_softmax(
                log_likelihoods(problem.model.path, x[rows], noisy.t[rows], bank.x1), 0
            )
            log_tilted = log_prior + bank.rewards.double()[:, None]
            prior, tilted = log_prior.exp(), torch.softmax(log_tilted, 0)
            change = (tilted - prior).mT @ bank.x1.flatten(1).double()
            shift[rows] = change.to(x).reshape(-1, *x.shape[1:])
            value[rows] = torch.logsumexp(log_tilted, 0).to(x)
            reward[rows] = (prior * bank.rewards.double()[:, None]).sum(0).to(x)
            ess[rows] = (1 / tilted.square().sum(0)).to(x)
            # The delta method for the logarithm of a ratio of two means over the same samples.
            spread = (tilted - prior).square().sum(0) * self.size / (self.size - 1)
            error[rows] = spread.sqrt().to(x)
        return Estimate(
            value=value,
            error=error,
            shift=shift,
            ess=ess,
            reward=reward,
            draws=torch.full((len(x),), self.size, device=x.device),
        )

    def _of(self, problem: Problem, cond: Condition, streams: Streams) -> _Samples:
        """The bank of the prompt that `cond`, one row, has."""
        known = _BANKS.setdefault(problem.model, {})
        key = (streams.seed, self.size, self.flow_steps, cond.prompts)
        bank, cond = known.get(key), cond.tile(self.size)
        if bank is None or bank.reward is not problem.reward:
            x1 = self._made(problem.model, cond, streams) if bank is None else bank.x1
            rewards = problem.reward_of(x1[None], cond)[0]
            bank = known[key] = _Samples(x1, rewards, problem.reward)
        return bank

    def _made(self, model: FlowModel, cond: Condition, streams: Streams) -> Tensor:
        """Samples x1 (M, *S) of the model, which depend on the seed alone."""
        rows = Streams(streams.seed, tuple(range(self.size)), ("bank",), streams.device)
        data = model.capability(DataSampler)
        if data is not None:
            return data.draw(rows).to(model.device, model.dtype)
        x = rows.normal(model.shape).to(model.device, model.dtype)
        times = tuple(step / self.flow_steps for step in range(self.flow_steps + 1))
        own = model.capability(Scheduled)
        if own is not None:
            times, x = own.times(self.flow_steps), own.begin(x, self.flow_steps)
        for now, later in pairwise(times):
            t = times_of(x, now)
            x = x + expand(times_of(x, later) - t, x) * model.velocity(x, t, cond)
        return x
