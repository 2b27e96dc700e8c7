"""Study: how good are values that are estimated from a few draws?"""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.draws import make_draws
from align.core.mode import AlignmentMode, Info, Need
from align.core.model import NoisyState
from align.core.option import at_least, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.core.study import Findings, Point, Study
from align.engine.guard import guarded
from align.modes.studies import setting
from align.modes.studies.values import advanced, noise, pearson, scored, states, value


@final
@attrs.frozen(eq=False)
class Values:
    """States at each time, their rollouts, and the points measured so far.

    Attributes:
        noisy: the states at each time, B of them.
        x: rollouts that are not at their end, (M · B, *S).
        rewards: rewards of the rollouts' ends, (M, B), for each time whose rollouts are done.
        points: the points measured so far.
    """

    noisy: tuple[NoisyState, ...]
    x: Tensor
    rewards: tuple[Tensor, ...] = ()
    points: tuple[Point, ...] = ()


@final
@attrs.frozen(kw_only=True)
class ValueCorrelation(AlignmentMode[Values], Study[Values]):
    """Measures whether values by draws rank states well.

    Do values by a sampler's draws rank states as those by long rollouts do?

        V = log (1/N) Σ_n e^{r(x1_n)}: over the draws, and over the ends of M rollouts from x_t.

    A rollout follows the memoryless process to t = 1 in small steps; its end is a draw from
    p(x1 | x_t). At each time the study reports Pearson's r between the two values over
    `run.samples` states, which the flow makes from noise. The rollouts are run once for all arms
    with the same model. The error of r is (1 − r²) / √(B − 1) over B states. Since rollouts are
    finite in number, not even an exact value has r = 1; the findings estimate the r that it would
    have.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 7.2.1, Fig. 6.
    """

    kind: ClassVar[str] = "value_correlation"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "sampler", "reward"})

    draws: int = option(
        "posterior draws N at each state", default=200, check=at_least(1), grows="rows"
    )
    times: tuple[float, ...] = option(
        "times t of the states",
        default=(0.1, 0.2, 0.5),
        check=setting.every(lambda t: 0 < t < 1, "times between 0 and 1"),
    )
    inner_steps: tuple[int, ...] = setting.inner_steps_option()
    particles: int = option("rollouts M from each state", default=200, check=at_least(2))
    rollout_steps: int = option(
        "steps of each rollout", default=200, check=at_least(1), grows="calls"
    )
    flow_steps: int = option(
        "Euler steps from noise to a state", default=50, check=at_least(1), grows="calls"
    )

    @property
    def steps(self) -> int:
        """Per time, one for each step of the rollouts and one for each number of inner steps."""
        return len(self.times) * (self.rollout_steps + len(self.inner_steps))

    @torch.no_grad()
    def init(self, problem: Problem, streams: Streams) -> Values:
        """The states."""
        noisy = states(problem, self.times, self.flow_steps, streams)
        return Values(noisy, noisy[0].x[:0])

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Values, index: int, streams: Streams
    ) -> tuple[Values, Info]:
        """One step of all rollouts at a time, or the values by one number of inner steps."""
        place, step = divmod(index, self.rollout_steps + len(self.inner_steps))
        if step >= self.rollout_steps:
            return self._compared(problem, state, place, step - self.rollout_steps, streams)
        if len(state.rewards) > place:
            return state, Info({})  # an earlier arm ran these rollouts
        noisy = state.noisy[place].tile(self.particles)
        numbers = streams.fold_in("rollout", place).particles(self.particles)
        x = state.x if step else noisy.x
        x = advanced(problem, noisy, x, step, self.rollout_steps, numbers)
        if step + 1 < self.rollout_steps:
            return attrs.evolve(state, x=x), Info({})
        rewards = scored(problem, x.unflatten(0, (self.particles, -1)))
        return attrs.evolve(state, x=x[:0], rewards=(*state.rewards, rewards)), Info({})

    def finish(self, problem: Problem, state: Values) -> None:
        """No samples."""

    def restart(self, last: Values) -> Values:
        """The states and the rewards of their rollouts, with no points yet."""
        return attrs.evolve(last, points=())

    def findings(self, state: Values) -> Findings:
        """Pearson's r over calls, at each time."""
        notes = tuple(map(noise, self.times, state.rewards))
        return Findings("Pearson's r", "NFE a draw", state.points, notes)

    def _compared(
        self, problem: Problem, state: Values, place: int, which: int, streams: Streams
    ) -> tuple[Values, Info]:
        """The correlation of values by N draws with those by rollouts; costs N draws a state."""
        sampler = setting.varied(problem.sampler, self.inner_steps, which)
        if sampler is None:
            return state, Info({})
        model, time, noisy = guarded(problem.model), self.times[place], state.noisy[place]
        problem = attrs.evolve(problem, model=model, sampler=sampler)
        make = partial(make_draws, draws=self.draws, budget=self.draws, gradient=False)
        draws, calls = setting.counted(
            model, lambda: make(problem, noisy, streams=streams.fold_in("draw"))
        )
        r = pearson(value(draws.rewards), value(state.rewards[place]))
        nfe = calls / draws.rewards.numel()
        error = (1 - r**2) / math.sqrt(len(noisy.t) - 1)
        points = (*state.points, Point(f"t = {time:g}", nfe, r, error))
        metrics = {"Pearson's r": r, "t": time, "NFE": nfe}
        return attrs.evolve(state, points=points), Info(metrics)
