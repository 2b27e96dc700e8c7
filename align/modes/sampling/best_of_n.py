"""Best of N: many plain samples, of which the best is kept; with N = 1, plain sampling."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final, Literal, final

import attrs
import torch
from torch import Tensor

from align.core.checks import read
from align.core.dynamics import Dynamics
from align.core.mode import AlignmentMode, Continues, Info, Need, ReportsKL, UsesComparisons
from align.core.option import at_least, option
from align.core.path import expand
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.ode import ODE
from align.modes.sampling.rollout import (
    TIME_GRID_HELP,
    TimeGrid,
    check_power,
    check_start,
    first_states,
    rollout,
    time_grid,
    unguided,
)

_FULL: Final = 4096
"""Rows beyond which a batch is not faster, however small its states."""


@final
@attrs.frozen(eq=False)
class Best:
    """The best candidates so far: clean states x1 (B, *S) and their rewards (B,).

    Attributes:
        ahead: candidates that were made with others and are not looked at yet, in their order.
    """

    x1: Tensor
    reward: Tensor
    ahead: tuple[Best, ...] = ()


@final
@attrs.frozen(kw_only=True)
class BestOfN(AlignmentMode[Best], ReportsKL[Best], Continues, UsesComparisons):
    """Makes N samples and keeps the best; 1 is plain sampling.

    x1 = argmax r over N samples of the flow; candidate 0 starts where `steer` starts.

    With `pool = "shared"` the B samples are the B best, in order, of all N · B candidates (top-k
    with k = B); sample i then depends on the other samples, by its nature.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 7.2.2 (the
    baseline Best-of-N).
    """

    kind: ClassVar[str] = "best_of_n"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "reward"})

    n: int = option("candidates for each sample", default=1, check=at_least(1))
    pool: Literal["own", "shared"] = option(
        "whether each sample has candidates of its own, or all are chosen from one pool",
        default="own",
    )
    flow_steps: int = option(
        "steps from noise to data", default=50, check=at_least(1), grows="calls"
    )
    dynamics: Dynamics = option("how a state takes one step", default=attrs.Factory(ODE))
    grid: TimeGrid = option(TIME_GRID_HELP, default="model")
    start: float = option("time at which the noise is put", default=0.01, check=check_start)
    power: float = option("above 1 the first steps are shorter", default=1.0, check=check_power)

    @property
    def steps(self) -> int:
        """One step looks at one candidate of every sample."""
        return self.n

    @property
    def independent(self) -> bool:
        """Whether each sample has candidates of its own."""
        return self.pool == "own" or self.n == 1

    def init(self, problem: Problem, streams: Streams) -> Best:
        """Nothing yet, which any candidate beats."""
        model, rows = problem.model, len(streams.samples)
        x1 = torch.zeros((rows, *model.shape), device=model.device, dtype=model.dtype)
        return Best(x1, x1.new_full((rows,), -torch.inf))

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Best, index: int, streams: Streams
    ) -> tuple[Best, Info]:
        """Candidate number `index`; costs `flow_steps` steps and a reward a sample.

        Candidates are made as many at a time as fill a batch.
        """
        if not state.ahead:
            state, *made = self._made(problem, state, index, streams)
            state = attrs.evolve(state, ahead=tuple(made))
        new, *ahead = state.ahead
        best = self._better(state, new) if index else new
        numbers = read({"reward": best.reward.mean(), "candidates": new.reward.mean()})
        return attrs.evolve(best, ahead=tuple(ahead)), Info(numbers)

    def finish(self, problem: Problem, state: Best) -> Tensor:
        """The best candidate of each sample, (B, *S)."""
        return state.x1

    def path_kl(self, state: Best) -> float | None:
        """log N − (N − 1)/N, for a reward without ties; not known for a shared pool."""
        return math.log(self.n) - (self.n - 1) / self.n if self.independent else None

    def steps_shared(self, other: AlignmentMode[Any]) -> int:
        """The candidates of a search among fewer; a single one has no pool to choose from."""
        if not isinstance(other, BestOfN) or other.n > self.n:
            return 0
        pool = self.pool if other.n == 1 else other.pool
        return other.n if attrs.evolve(other, n=self.n, pool=pool) == self else 0

    @property
    def is_base(self) -> bool:
        """Whether there is nothing to choose from: one candidate."""
        return self.n == 1

    def _better(self, old: Best, new: Best) -> Best:
        if self.pool == "shared":
            rewards, order = torch.cat((old.reward, new.reward)).sort(descending=True, stable=True)
            rows = order[: len(old.reward)]
            return Best(torch.cat((old.x1, new.x1))[rows], rewards[: len(rows)])
        # A tie keeps the earlier one, so that a reward that is constant changes nothing.
        better = new.reward > old.reward
        x1 = torch.where(expand(better, new.x1), new.x1, old.x1)
        return Best(x1, torch.where(better, new.reward, old.reward))

    def _made(self, problem: Problem, best: Best, first: int, streams: Streams) -> tuple[Best, ...]:
        """The best so far, and candidates from number `first` on.

        These are all that are left, or as many as fill a batch. Where a reward compares samples,
        the best so far is one of those that are compared.
        """
        rows = len(streams.samples)
        count = max(1, min(self.n - first, min(problem.chunks.cap, _FULL) // max(1, rows)))
        purposes = [("candidate", k) if k else () for k in range(first, first + count)]
        tiled = attrs.evolve(problem, cond=problem.cond.tile(count))
        x1 = self._sample(tiled, streams.branched(*purposes)).unflatten(0, (count, rows))
        if first and problem.reward.compares:
            group = torch.cat((best.x1[None], x1))
            best, *made = map(Best, group, problem.reward_of(group, problem.cond))
            return best, *made
        return best, *map(Best, x1, problem.reward_of(x1, problem.cond))

    def _sample(self, problem: Problem, streams: Streams) -> Tensor:
        model = problem.model
        x = streams.fold_in("start").normal(model.shape).to(model.device, model.dtype)
        x = first_states(model, x, self.flow_steps, self.grid)
        times = time_grid(model, self.flow_steps, self.grid, self.start, self.power)
        return rollout(self.dynamics, unguided(model, problem.cond), x, times, streams)
