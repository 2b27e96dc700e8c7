"""Trajectory tilting: particles whose weights are an integral of the reward ahead of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final, Literal, final

import attrs
import torch
from torch import Tensor

from align.core.checks import read
from align.core.dynamics import Slope, step_noise
from align.core.mode import AlignmentMode, Info, Need, UsesRewardGradient
from align.core.model import Condition, FlowMap, FlowModel, ModelSpec
from align.core.option import ConfigError, above, at_least, between, option
from align.core.path import expand, times_of
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.clamp import clamped_half_variance
from align.modes.sampling.ahead import check_jumps, jumps_from, look_ahead, problems_of_jumps
from align.modes.sampling.particles import categorical, rows_of, systematic
from align.modes.sampling.rollout import (
    TIME_GRID_HELP,
    TimeGrid,
    check_finite,
    check_power,
    check_start,
    first_states,
    time_grid,
)

_CURE: Final = "use mode 'steer' with particles"


@final
@attrs.frozen(eq=False)
class Tilted:
    """M particles of B samples at the time that the next step starts from.

    Attributes:
        x: states (M · B, *S), particle-major; clean ones of the samples, (B, *S), at the end.
        log_weights: of the particles, (M, B), float64, since they were last resampled.
        times: that steps stop at, rising, up to 1.
    """

    x: Tensor
    log_weights: Tensor
    times: tuple[float, ...]


@final
@attrs.frozen(kw_only=True)
class TrajectoryTilting(AlignmentMode[Tilted], UsesRewardGradient):
    """With a flow map: particles weighed by the reward ahead.

    Where the flow leads from a state, R_t(x) = r(X_{t,1}(x)) says what the sample will be worth.
    M particles follow laws on the way, q_t ∝ p_t e^{t R_t}, from noise to p* ∝ p e^r:

        dx = (b + ε s + ε t ∇R_t) dt + √(2ε) dW,   d log w = R_t dt,   ε_t = min(σ_t²/2, `clamp`).

    R_t does not change along the flow, so that the flow alone leads p_t e^{g R_t} to p_u e^{g R_u},
    whatever g. Weights are then due to the rise of g = t alone, and are free of the noise that a
    ratio of transitions has: with ε = 0 they are e^r, plain importance sampling. The rest of the
    drift leaves q_t as it is, and moves particles to where the weights want them. A step from t to
    u weighs by e^{(u − t) R_t} and then moves with g = u; the last step is the map's jump. p* is
    the target for many particles and short steps, and with one step too. Between the two, Euler
    steps miss q_t by an order of their length; `steer` with sampler 'look_ahead' and particles has
    no such error, but fewer effective particles: 9 to 14 of 32 on a line, where these have 16 to
    23.

    Costs a velocity, a jump, a reward and the way back through both a step and particle.

    Reference: Test-time scaling of diffusions with flow maps (FMTT), Sabour et al., 2025,
    arXiv:2511.22688, by its page: github.com/amsabour/FMTT, commit 081b0cc, index.html (the SDE and
    r_t = t r(X_{t,1})). The weights were derived for align; summaries say of the paper's that they
    are such an integral.
    """

    kind: ClassVar[str] = "trajectory_tilting"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "reward"})

    particles: int = option("particles M of each sample", default=8, check=at_least(2))
    steps: int = option("steps from noise to data", default=50, check=at_least(1))
    clamp: float = option(
        "largest noise level ε; below, it is σ²/2, that of the path", default=1.0, check=above(0)
    )
    ess_threshold: float = option(
        "resample where the effective share of particles is below this",
        default=0.5,
        check=between(0, 1),
    )
    grid: TimeGrid = option(TIME_GRID_HELP, default="model")
    start: float = option("time at which the noise is put", default=0.01, check=check_start)
    power: float = option("above 1 the first steps are shorter", default=1.0, check=check_power)

    @property
    def gradient_of(self) -> Literal["", "reward", "draws"]:
        """The reward's, through the map's jump."""
        return "reward"

    def spec_problems(self, model: ModelSpec) -> Iterator[ConfigError]:
        """That the model has no flow map; one that jumps to data alone has no score."""
        return problems_of_jumps(model, _CURE, FlowMap)

    def check_model(self, model: FlowModel) -> None:
        """Raise OptionError where the model has no flow map."""
        check_jumps(model, _CURE, FlowMap)

    def init(self, problem: Problem, streams: Streams) -> Tilted:
        """Noise from N(0, I); particle 0 starts where `steer` starts."""
        model, rows = problem.model, streams.particles(self.particles)
        x = rows.fold_in("start").normal(model.shape).to(model.device, model.dtype)
        x = first_states(model, x, self.steps, self.grid)
        zero = x.new_zeros((self.particles, len(streams.samples)), dtype=torch.float64)
        times = time_grid(model, self.steps, self.grid, self.start, self.power)
        return Tilted(x, zero, tuple(times))

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Tilted, index: int, streams: Streams
    ) -> tuple[Tilted, Info]:
        """Weigh the particles, replace the poor ones, and move all; the last step chooses."""
        model, rows = problem.model, streams.particles(self.particles)
        problem = attrs.evolve(problem, particles=self.particles)
        cond = problem.cond.tile(self.particles)
        now, later = state.times[index : index + 2]
        ahead = look_ahead(problem, state.x, cond, jumps_from(model, now))
        rise = later - now if index else later  # from noise, where t is 0
        log_weights = state.log_weights + rise * ahead.reward.double().reshape(self.particles, -1)
        ess = 1 / torch.softmax(log_weights, 0).square().sum(0)
        numbers = {"particles": ess.mean(), "reward": ahead.reward.mean()}
        if index + 1 == self.steps:
            chosen = rows_of(categorical(log_weights, streams.fold_in("chosen"))[None])
            return Tilted(ahead.x1[chosen], log_weights, state.times), Info(read(numbers))
        x, gradient = state.x, ahead.gradient
        low = ess < self.ess_threshold * self.particles
        if low.any():
            own = torch.arange(self.particles, device=low.device)[:, None]
            drawn = systematic(log_weights, streams.fold_in("resample", index))
            source = rows_of(torch.where(low, drawn, own))
            x, gradient = x[source], gradient[source]
            log_weights = torch.where(low, 0.0, log_weights)
        x, strength = self._moved(
            model, x, gradient, cond, (now, later), rows.fold_in("step", index)
        )
        numbers["guidance"] = strength
        return Tilted(x, log_weights, state.times), Info(read(numbers), draws=ahead.x1[None])

    def finish(self, problem: Problem, state: Tilted) -> Tensor:
        """The chosen particle of each sample at t = 1, (B, *S)."""
        return state.x

    def _moved(
        self,
        model: FlowModel,
        x: Tensor,
        gradient: Tensor,
        cond: Condition,
        times: tuple[float, float],
        streams: Streams,
    ) -> tuple[Tensor, Tensor]:
        """The states after a step that follows ∇R (M · B, *S), and ‖guidance‖ / ‖drift‖, ()."""
        t, u = (times_of(x, time) for time in times)
        velocity = model.velocity(x, t, cond)
        level = clamped_half_variance(model.path, t, self.clamp)
        score = model.path.score_from_velocity(velocity, x, t)
        slope = Slope(velocity + expand(level, x) * score, expand(level * u, x) * gradient)
        std = torch.sqrt(2 * level * (u - t))
        noise = expand(std, x) * step_noise(std, x, streams)
        x, strength = x + expand(u - t, x) * slope.total + noise, slope.strength.mean()
        check_finite(x, strength)
        return x, strength
