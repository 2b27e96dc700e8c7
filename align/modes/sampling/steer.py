"""Steering: the flow with the drift that a reward adds, at every step, by one or many particles."""

from __future__ import annotations

from typing import Any, ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.checks import read
from align.core.dynamics import Dynamics, GuidanceNorm, GuidedFlow, Transition
from align.core.estimate import known
from align.core.mode import AlignmentMode, HasWarnings, Info, Need, ReportsKL, UsesComparisons
from align.core.option import at_least, between, option, rising_to
from align.core.path import times_of
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.ode import ODE
from align.modes.sampling.guide import Guide
from align.modes.sampling.particles import Potential, Resample, Selection, Weights, rows_of
from align.modes.sampling.rollout import (
    TIME_GRID_HELP,
    TimeGrid,
    check_finite,
    check_power,
    check_start,
    first_states,
    time_grid,
    transitions,
)


def _agree(spec: Steer, attribute: attrs.Attribute[Any], value: int) -> None:
    at_least(1)(spec, attribute, value)
    if spec.times and value != len(spec.times) - 1:
        raise ValueError(f"'{attribute.name}' must be left out where 'times' are given")


@final
@attrs.frozen(eq=False)
class Steered:
    """M particles of B samples at the time that the next step starts from.

    Attributes:
        x: states (M · B, *S), particle-major.
        weights: log weights of the particles, and what they were made from.
        path_kl: Σ ½ ‖push‖²/std² of the steps so far, (M · B,): Girsanov's ½ ∫ ‖guidance‖²/σ² dt.
        winner: number of the particle that is each sample's result, (B,), after the last step.
        times: that steps stop at, rising, up to 1.
    """

    x: Tensor
    weights: Weights
    path_kl: Tensor
    winner: Tensor
    times: tuple[float, ...]


@final
@attrs.frozen(kw_only=True)
class Steer(AlignmentMode[Steered], ReportsKL[Steered], HasWarnings[Steered], UsesComparisons):
    """Steers samples towards the reward while it makes them.

    Samples p*(x) ∝ p(x) e^{r(x)} by Doob's transform of the flow.

    At every step the estimator says how far the reward moves the denoiser, from D to D*, and the
    dynamics follow the flow that has D* in place of D.

    With M particles and systematic resampling, weights e^V̂ and the ratio of base and guided
    transitions make p* the exact target as M grows, however poor the guidance (twisted sequential
    Monte Carlo; with potentials of its own, FK steering). That needs dynamics with a density.
    Resampling "best" and "best_per_particle" with estimator 'search' and dynamics 'renoise' or
    'ddim' are MFM-Search: ascent, not sampling. So is `guidance_norm = "renorm"`, which keeps the
    direction of the guidance alone.

    With `temper_until` = τ guidance and weights of a step at time t are those of min(1, t/τ) r.
    Early values are the least certain, so that particles then lose fewer of their ancestors; the
    last weights are those of r, so that p* stays their target. One particle has no such correction.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 37 to 39 and 136,
    Algorithm 4; Practical and asymptotically exact conditional sampling in diffusion models, Wu et
    al., 2023, arXiv:2306.17775, Algorithm 1; A general framework for inference-time scaling and
    steering of diffusion models, Singhal et al., 2025, arXiv:2501.06848, section 3; DAS, Kim et
    al., 2025, arXiv:2501.05803 (tempering; there min(1, (1 + γ)^k − 1) at step k, read in its code,
    github.com/Jaewoopudding/das, commit 71f9403).
    """

    kind: ClassVar[str] = "steer"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "estimator", "reward"})

    times: tuple[float, ...] = option(
        "times to stop at, up to 1; instead of steps, grid, start and power",
        default=(),
        check=rising_to(1),
    )
    steps: int = option(
        "steps from noise to data",
        default=attrs.Factory(lambda spec: len(spec.times) - 1 if spec.times else 50, True),
        check=_agree,
        shown="50",
    )
    dynamics: Dynamics = option("how a state takes one step", default=attrs.Factory(ODE))
    grid: TimeGrid = option(TIME_GRID_HELP, default="model")
    start: float = option("time at which the noise is put", default=0.01, check=check_start)
    power: float = option("above 1 the first steps are shorter", default=1.0, check=check_power)
    guidance_norm: GuidanceNorm = option(
        "length of the guidance: as it is ('none'), at most that of the drift ('clip'), or always"
        " that of the drift ('renorm')",
        default="none",
    )
    scale: float = option("factor of the guidance", default=1.0, check=at_least(0))
    temper_until: float = option(
        "time until which the reward's weight rises from 0 to the whole; 0: whole from the start",
        default=0.0,
        check=between(0, 1),
    )
    particles: int = option("particles M of each sample", default=1, check=at_least(1))
    resample: Resample = option(
        "how particles are replaced: by weight, all by the best, or each by its own best draw",
        default="none",
    )
    potential: Potential = option(
        "what weighs a particle: its value over that before, the best so far, their sum",
        default="diff",
    )
    ess_threshold: float = option(
        "resample where the effective share of particles is below this",
        default=0.5,
        check=between(0, 1),
    )
    resample_every: int = option(
        "steps from one weighing to the next", default=1, check=at_least(1)
    )

    def __attrs_post_init__(self) -> None:
        if self.resample in ("none", "systematic") and self.particles > 1:
            if not self.dynamics.has_density:
                raise ValueError(
                    f"dynamics '{self.dynamics.kind}' has no density, so it cannot weigh"
                    " particles; use one that has, such as 'sde' or 'ddpm', or resample 'best' or"
                    " 'best_per_particle'"
                )
        elif self.resample == "systematic":
            raise ValueError("resample 'systematic' needs more than one of 'particles'")

    def init(self, problem: Problem, streams: Streams) -> Steered:
        """Noise from N(0, I); scaled only where the model's own sampler starts so."""
        model, rows = problem.model, streams.particles(self.particles)
        x = rows.fold_in("start").normal(model.shape).to(model.device, model.dtype)
        if not self.times:
            x = first_states(model, x, self.steps, self.grid)
        weights = Weights.equal(self.particles, len(streams.samples), x.device)
        none, nobody = weights.log.new_zeros(len(x)), weights.log.new_zeros(0).long()
        times = self.times or time_grid(model, self.steps, self.grid, self.start, self.power)
        return Steered(x, weights, none, nobody, tuple(times))

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Steered, index: int, streams: Streams
    ) -> tuple[Steered, Info]:
        """One step; costs what the dynamics evaluate: an estimate a particle, as a rule."""
        rows, path = streams.particles(self.particles), problem.model.path
        guide = Guide(
            attrs.evolve(self._tempered(problem, state.times[index]), particles=self.particles),
            problem.cond.tile(self.particles),
            rows.fold_in("estimate", index),
        )
        times = [times_of(state.x, time) for time in state.times[index : index + 2]]
        state, selection = self._selected(state, guide, index, times[0], streams)
        flow = GuidedFlow(path, guide, self.guidance_norm, self.scale)
        (transition,) = transitions(self.dynamics, flow, state.x, times, rows, first=index)
        strength = transition.strength.mean()
        state = self._moved(state, transition)
        check_finite(state.x, strength)
        if index + 1 == self.steps:
            state = self._ended(problem, state, streams)
        estimate = guide.estimates[0]
        numbers = estimate.means() | selection | {"guidance": strength}
        return state, Info(known(read(numbers)), draws=estimate.x1)

    def finish(self, problem: Problem, state: Steered) -> Tensor:
        """The chosen particle of each sample at t = 1, (B, *S)."""
        return state.x[rows_of(state.winner[None])]

    def path_kl(self, state: Steered) -> float | None:
        """KL of the guided paths from the base model's, by Girsanov; it bounds that of x1."""
        known = self.dynamics.has_density and self.particles == 1
        return float(state.path_kl.mean()) if known else None

    def warnings(self, state: Steered) -> tuple[str, ...]:
        """That renormalised guidance, or a tempered single particle, samples another law."""
        warnings = list[str]()
        if self.guidance_norm == "renorm":
            warnings.append(
                "guidance_norm = 'renorm' keeps the direction of the guidance alone. That climbs "
                "the reward and does not sample p e^r, so that 'KL at least' is a bound and no "
                "estimate."
            )
        if self.temper_until and self.particles == 1:
            warnings.append(
                "temper_until guides less at first, which the weights of particles make up for. "
                "With one particle samples need not follow p e^r."
            )
        return tuple(warnings)

    def _tempered(self, problem: Problem, t: float) -> Problem:
        """The problem with the reward that steps at time t follow."""
        if t >= self.temper_until:
            return problem
        return attrs.evolve(problem, reward=problem.reward.times(t / self.temper_until))

    @property
    def _selection(self) -> Selection:
        return Selection(
            resample=self.resample, potential=self.potential, ess_threshold=self.ess_threshold
        )

    def _selected(
        self, state: Steered, guide: Guide, index: int, t: Tensor, streams: Streams
    ) -> tuple[Steered, dict[str, Tensor]]:
        """Weigh the particles by their estimated values, and replace the poor ones."""
        if self.particles == 1 or index % self.resample_every:
            return state, {}
        estimate = guide.estimate(state.x, t)
        value = estimate.value.double().unflatten(0, (self.particles, -1))
        weights, source, numbers = self._selection.select(
            state.weights, value, index, streams.fold_in("resample", index)
        )
        state = attrs.evolve(state, weights=weights)
        if source is None:
            return state, numbers
        rows = rows_of(source)
        state = attrs.evolve(state, x=state.x[rows], path_kl=state.path_kl[rows])
        guide.remember(state.x, t, estimate.rows(rows))
        return state, numbers

    def _moved(self, state: Steered, transition: Transition) -> Steered:
        """The state after a step, its weights and path KL with it."""
        gaussian = transition.gaussian
        if gaussian is None:
            return attrs.evolve(state, x=transition.x)
        log_ratio = gaussian.log_ratio.unflatten(0, (self.particles, -1))
        weights = state.weights.after_move(log_ratio)
        path_kl = state.path_kl + gaussian.kl
        return attrs.evolve(state, x=gaussian.x, weights=weights, path_kl=path_kl)

    def _ended(self, problem: Problem, state: Steered, streams: Streams) -> Steered:
        """Choose the particle of each sample; with more than one that costs a reward each."""
        count, cond = self.particles, problem.cond.tile(self.particles)
        if count == 1:
            return attrs.evolve(state, winner=state.winner.new_zeros(len(state.x)))
        problem = attrs.evolve(problem, particles=count)
        reward = problem.reward_of(state.x[None], cond)[0].double().unflatten(0, (count, -1))
        weights, winner = self._selection.winner(state.weights, reward, streams.fold_in("chosen"))
        return attrs.evolve(state, weights=weights, winner=winner)
