"""Best of N noises: each is judged by one jump to the data, and the flow follows the best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Final, final

import attrs
import torch
from torch import Tensor

from align.core.checks import read
from align.core.dynamics import Dynamics
from align.core.errors import OptionError, PartError
from align.core.mode import AlignmentMode, Info, Need, ReportsKL
from align.core.model import FlowModel, ModelSpec, ToData
from align.core.option import ConfigError, at_least, option
from align.core.path import expand, times_of
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

_CURE: Final = "the model cannot jump to the data in one call; use mode 'best_of_n'"


@final
@attrs.frozen(eq=False)
class Chosen:
    """The first states x (B, *S) whose previews score highest; samples, after the last step."""

    x: Tensor


@final
@attrs.frozen(kw_only=True)
class BestNoise(AlignmentMode[Chosen], ReportsKL[Chosen]):
    """Models with a map: Best-of-N at one call a candidate.

    N noises are led to the data by one jump of the model's map. The noise whose preview has the
    highest reward is then followed by the whole flow.

        x1 = flow(ε_best),   best = argmax_n r(X_{0,1}(ε_n)).

    That is `best_of_n` as far as the map's jump is the flow's end, for N + `flow_steps` network
    calls a sample instead of N · `flow_steps`. Candidate 0 starts where `steer` starts, and
    candidates are those of `best_of_n`. The choice is among noises, so that KL(q | p) is at most
    log N − (N − 1)/N, whatever previews are like.

    Our own variant of Best-of-N. Flash-BoN, 2026, arXiv:2607.04461, too finishes the best of many
    cheap candidates; a summary of it was read, and no equation.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 7.2.2 (the
    baseline Best-of-N).
    """

    kind: ClassVar[str] = "best_noise"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "reward"})
    steps: ClassVar[int] = 2

    n: int = option("noises that each sample is chosen from", default=16, check=at_least(1))
    flow_steps: int = option(
        "steps from the best noise to data", default=50, check=at_least(1), grows="calls"
    )
    dynamics: Dynamics = option("how a state takes one step", default=attrs.Factory(ODE))
    grid: TimeGrid = option(TIME_GRID_HELP, default="model")
    start: float = option("time at which the noise is put", default=0.01, check=check_start)
    power: float = option("above 1 the first steps are shorter", default=1.0, check=check_power)

    def spec_problems(self, model: ModelSpec) -> Iterator[ConfigError]:
        """That the model has no map that jumps to the data."""
        if not model.can(ToData):
            yield ConfigError(("kind",), _CURE)

    def check_model(self, model: FlowModel) -> None:
        """Raise OptionError where the model has no map that jumps to the data."""
        if model.capability(ToData) is None:
            raise OptionError(f"mode.kind: {_CURE}", ("mode", "kind"))

    def init(self, problem: Problem, streams: Streams) -> Chosen:
        """Nothing yet."""
        model = problem.model
        shape = (len(streams.samples), *model.shape)
        return Chosen(torch.zeros(shape, device=model.device, dtype=model.dtype))

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Chosen, index: int, streams: Streams
    ) -> tuple[Chosen, Info]:
        """First all previews, at a call and a reward each; then the flow from the best noise."""
        model = problem.model
        times = time_grid(model, self.flow_steps, self.grid, self.start, self.power)
        if index:
            flow = unguided(model, problem.cond)
            return Chosen(rollout(self.dynamics, flow, state.x, times, streams)), Info({})
        best, previews, rewards = self._best(problem, times[0], streams)
        return Chosen(best), Info(read({"reward": rewards.mean()}), draws=previews[None])

    def finish(self, problem: Problem, state: Chosen) -> Tensor:
        """The end of the flow from each sample's best noise, (B, *S)."""
        return state.x

    def path_kl(self, state: Chosen) -> float:
        """log N − (N − 1)/N, for a reward without ties."""
        return math.log(self.n) - (self.n - 1) / self.n

    @property
    def is_base(self) -> bool:
        """Whether there is nothing to choose from: one noise."""
        return self.n == 1

    def _best(
        self, problem: Problem, start: float, streams: Streams
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best first states and their previews, both (B, *S), and the rewards (B,) of these."""
        model, rows = problem.model, len(streams.samples)
        jumps = model.capability(ToData)
        if jumps is None:
            raise PartError(_CURE)
        at_once, found = max(1, problem.chunks.cap // max(1, rows)), None
        for first in range(0, self.n, at_once):
            numbers = range(first, min(self.n, first + at_once))
            purposes = [("candidate", k) if k else () for k in numbers]
            noise = streams.branched(*purposes).fold_in("start").normal(model.shape)
            x = noise.to(model.device, model.dtype)
            x = first_states(model, x, self.flow_steps, self.grid)
            cond = problem.cond.tile(len(numbers))
            previews = jumps.to_data(x, times_of(x, start), cond).unflatten(0, (len(numbers), rows))
            rewards = problem.reward_of(previews, problem.cond)
            x = x.unflatten(0, (len(numbers), rows))
            for candidate in zip(x, previews, rewards, strict=True):
                found = candidate if found is None else _better(found, candidate)
        assert found is not None
        return found


def _better(
    old: tuple[Tensor, Tensor, Tensor], new: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row the candidate with the higher reward, which comes last; a tie keeps the old."""
    higher = new[2] > old[2]
    x, preview, reward = (
        torch.where(expand(higher, b), b, a) for a, b in zip(old, new, strict=True)
    )
    return x, preview, reward
