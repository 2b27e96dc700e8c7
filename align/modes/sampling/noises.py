"""What modes have in common that choose the noise which the flow then follows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Final, final

import attrs
import torch
from torch import Tensor

from align.core.checks import read
from align.core.dynamics import Dynamics
from align.core.mode import AlignmentMode, Info, Need
from align.core.model import Condition, FlowModel, ModelSpec
from align.core.option import ConfigError, at_least, option
from align.core.path import expand
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.ode import ODE
from align.modes.sampling.ahead import check_jumps, jumps_from, problems_of_jumps
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

_CURE: Final = "judge noises by steps of the flow, with preview_steps = 8 or so"


@final
@attrs.frozen(eq=False)
class Noises:
    """The best noise of each of B samples so far, and where the search goes on.

    Attributes:
        noise: the best one, (B, *S), from N(0, I) or near it.
        x1: its preview; the sample, after the last step.
        score: what it was chosen by, (B,).
        onward: the noise that the next round looks at or around, (B, *S).
    """

    noise: Tensor
    x1: Tensor
    score: Tensor
    onward: Tensor

    def or_better(self, noise: Tensor, x1: Tensor, score: Tensor) -> Noises:
        """Another noise for each sample where its score is higher; a tie keeps the old one."""
        higher = score > self.score
        rows = expand(higher, noise)
        return Noises(
            torch.where(rows, noise, self.noise),
            torch.where(rows, x1, self.x1),
            torch.where(higher, score, self.score),
            self.onward,
        )


@attrs.frozen(kw_only=True)
class NoiseMode(AlignmentMode[Noises]):
    """Looks for a good noise in `rounds` steps, by previews, and follows the flow from the best."""

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "reward"})

    flow_steps: int = option(
        "steps from the best noise to data", default=50, check=at_least(1), grows="calls"
    )
    preview_steps: int = option(
        "Euler steps of the flow's ODE by which a noise is judged; 0: one jump of the model's map",
        default=0,
        check=at_least(0),
        grows="calls",
    )
    dynamics: Dynamics = option("how a state takes one step", default=attrs.Factory(ODE))
    grid: TimeGrid = option(TIME_GRID_HELP, default="model")
    start: float = option("time at which the noise is put", default=0.01, check=check_start)
    power: float = option("above 1 the first steps are shorter", default=1.0, check=check_power)

    @property
    @abstractmethod
    def rounds(self) -> int:
        """Number of steps before the last one."""

    @abstractmethod
    def look(self, problem: Problem, state: Noises, index: int, streams: Streams) -> Noises:
        """Round number `index`: the best noises after it."""

    @property
    def steps(self) -> int:
        """The rounds, and the flow from the best noise."""
        return self.rounds + 1

    def spec_problems(self, model: ModelSpec) -> Iterator[ConfigError]:
        """That the model has no map that jumps to the data, where noises are judged by it."""
        return iter(()) if self.preview_steps else problems_of_jumps(model, _CURE)

    def check_model(self, model: FlowModel) -> None:
        """Raise OptionError where noises are judged by a map's jump, and the model has none."""
        if not self.preview_steps:
            check_jumps(model, _CURE)

    def init(self, problem: Problem, streams: Streams) -> Noises:
        """The noise that `steer` starts from, which anything is better than."""
        model = problem.model
        noise = streams.fold_in("start").normal(model.shape).to(model.device, model.dtype)
        return Noises(noise, noise, noise.new_full((len(noise),), -torch.inf), noise)

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Noises, index: int, streams: Streams
    ) -> tuple[Noises, Info]:
        """A round of previews; at last the flow from the best noise."""
        if index < self.rounds:
            state = self.look(problem, state, index, streams)
            return state, Info(read({"reward": state.score.mean()}), draws=state.x1[None])
        model = problem.model
        times = time_grid(model, self.flow_steps, self.grid, self.start, self.power)
        x = first_states(model, state.noise, self.flow_steps, self.grid)
        x1 = rollout(self.dynamics, unguided(model, problem.cond), x, times, streams)
        return attrs.evolve(state, x1=x1), Info({})

    def finish(self, problem: Problem, state: Noises) -> Tensor:
        """The end of the flow from each sample's best noise, (B, *S)."""
        return state.x1

    def previews(self, model: FlowModel, noise: Tensor, cond: Condition) -> Tensor:
        """Clean states (B, *S) by a jump or by steps from noises (B, *S); the graph is kept."""
        steps = self.preview_steps or self.flow_steps
        times = time_grid(model, steps, self.grid, self.start, self.power)
        x = first_states(model, noise, steps, self.grid)
        if not self.preview_steps:
            return jumps_from(model, times[0])(x, cond)
        no_numbers = Streams(0, ())  # the ODE draws none
        return rollout(ODE(), unguided(model, cond), x, times, no_numbers)
