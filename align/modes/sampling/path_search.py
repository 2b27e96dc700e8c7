"""Search among ways on: go back towards noise in several ways, go on, and keep the best."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.checks import read
from align.core.dynamics import Dynamics
from align.core.mode import AlignmentMode, Info, Need, UsesComparisons
from align.core.model import NoisyState
from align.core.option import at_least, option
from align.core.path import Path, expand, times_of
from align.core.problem import Problem
from align.core.sampler import draw_posterior
from align.core.streams import Streams
from align.dynamics.ode import ODE
from align.modes.sampling.particles import rows_of
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


@final
@attrs.frozen(eq=False)
class Ways:
    """What goes on of B samples, at the time that the next round starts from.

    Attributes:
        x: states (N · B, *S), particle-major; clean ones of the samples, (B, *S), at the end.
        times: that steps stop at, rising, up to 1.
    """

    x: Tensor
    times: tuple[float, ...]


@final
@attrs.frozen(kw_only=True)
class PathSearch(AlignmentMode[Ways], UsesComparisons):
    """Any reward: finds good ways to the data, a part at a time.

    N states of a sample follow the flow for `onward` steps. Each is then led back by `back` steps,
    with fresh noise, in M ways, and each way follows the flow on, past where it came from:

        x_s = c x_t + √(α_s² − c² α_t²) ξ,   c = β_s/β_t,   ξ ~ N(0, I),   s < t.

    A draw of the sampler is the preview of each of the N · M states. The reward judges the
    previews, and the best N states go on. At t = 1 the states themselves are judged, and the best
    is the sample.

    The step back is how the path adds noise, so that it leaves the model's law as it is: with
    N = M = 1 samples are the model's own. With more they climb the reward, and do not sample p e^r.
    The choice asks for no gradient and does not depend on the reward's scale. Nothing bounds the
    KL. With `onward` = `flow_steps` nothing is led back, and the mode is `best_of_n` with n = N.

    Previews by sampler 'dps' are denoisers, which are blurred at early times; those by
    'look_ahead', of models with a map, are where the flow leads.

    Reference: search over paths, Ma et al., 2025, arXiv:2501.09732, by way of its copy for
    pipelines, which was read instead of the paper: github.com/sayakpaul/tt-scale-flux, commit
    82b325e, path_search.py. There states are judged without a preview, and noise of the variance
    `delta_f` is added.
    """

    kind: ClassVar[str] = "path_search"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "sampler", "reward"})

    survivors: int = option(
        "states N of a sample that go on from a round", default=2, check=at_least(1), grows="rows"
    )
    ways: int = option("ways M on from each of them", default=3, check=at_least(1), grows="rows")
    onward: int = option("steps from one choice to the next", default=6, check=at_least(1))
    back: int = option(
        "steps that a state is led back by, at most `onward`; more make ways that differ more",
        default=attrs.Factory(lambda spec: -(-spec.onward // 2), takes_self=True),
        check=at_least(1),
        shown="half of `onward`",
    )
    flow_steps: int = option(
        "steps from noise to data", default=50, check=at_least(1), grows="calls"
    )
    dynamics: Dynamics = option("how a state takes one step", default=attrs.Factory(ODE))
    grid: TimeGrid = option(TIME_GRID_HELP, default="model")
    start: float = option("time at which the noise is put", default=0.01, check=check_start)
    power: float = option("above 1 the first steps are shorter", default=1.0, check=check_power)

    def __attrs_post_init__(self) -> None:
        if self.back > self.onward:
            raise ValueError(f"'back' must be at most 'onward', {self.onward}, got {self.back}")

    @property
    def steps(self) -> int:
        """Rounds: the flow in parts of `onward` steps."""
        return -(-self.flow_steps // self.onward)

    def init(self, problem: Problem, streams: Streams) -> Ways:
        """Noise from N(0, I): that of the candidates of `best_of_n`."""
        model = problem.model
        x = self._candidates(streams).fold_in("start").normal(model.shape)
        x = first_states(model, x.to(model.device, model.dtype), self.flow_steps, self.grid)
        times = time_grid(model, self.flow_steps, self.grid, self.start, self.power)
        return Ways(x, tuple(times))

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Ways, index: int, streams: Streams
    ) -> tuple[Ways, Info]:
        """One round; costs up to N · M · (`back` + `onward`) steps, and as many previews."""
        model, times = problem.model, state.times
        now = index * self.onward
        begin, end = now - (self.back if index else 0), min(now + self.onward, self.flow_steps)
        if index:
            count = self.survivors * self.ways
            rows = streams.particles(count).fold_in("round", index)
            x = state.x.repeat(self.ways, *(1,) * len(model.shape))
            x = led_back(model.path, x, times[now], times[begin], rows.fold_in("back"))
        else:
            count, rows, x = self.survivors, self._candidates(streams), state.x
        problem = attrs.evolve(problem, particles=count, cond=problem.cond.tile(count))
        flow = unguided(model, problem.cond)
        x = rollout(self.dynamics, flow, x, times[begin : end + 1], rows)
        last = end == self.flow_steps
        previews = x if last else self._previews(problem, x, times[end], rows.fold_in("preview"))
        rewards = problem.reward_of(previews[None], problem.cond)[0].reshape(count, -1)
        rewards, order = rewards.sort(stable=True, dim=0, descending=True)
        survivors = rows_of(order[: 1 if last else self.survivors])
        best = previews[rows_of(order[:1])]
        numbers = read({"reward": rewards[0].mean(), "candidates": rewards.mean()})
        return Ways(x[survivors], times), Info(numbers, draws=best[None])

    def finish(self, problem: Problem, state: Ways) -> Tensor:
        """The best end of each sample, (B, *S)."""
        return state.x

    def _candidates(self, streams: Streams) -> Streams:
        """(N · B) rows, of which row (k, b) is candidate k of `best_of_n`."""
        return streams.branched(*(("candidate", k) if k else () for k in range(self.survivors)))

    def _previews(self, problem: Problem, x: Tensor, time: float, streams: Streams) -> Tensor:
        assert problem.sampler is not None
        noisy = NoisyState(x, times_of(x, time), problem.cond)
        return draw_posterior(problem.sampler, problem.model, noisy, draws=1, streams=streams)[0]


def led_back(path: Path, x: Tensor, time: float, earlier: float, streams: Streams) -> Tensor:
    """States (B, *S) at an earlier time, as the path adds noise to those at `time`, x (B, *S).

    p_t becomes p_s for any data: x_s = β_s x1 + α_s ε has the law of c (β_t x1 + α_t ε) and what
    noise is missing.
    """
    t, s = times_of(x, time), times_of(x, earlier)
    share = path.beta(s) / path.beta(t)
    missing = path.alpha(s).square() - (share * path.alpha(t)).square()
    noise = streams.normal(x.shape[1:]).to(x)
    return expand(share, x) * x + expand(missing.clamp(min=0).sqrt(), x) * noise
