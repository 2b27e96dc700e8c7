"""Steering: the flow with the drift that a reward adds, at every step, by one or many particles."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

import attrs
import torch
from torch import Tensor

from align.core.estimate import Estimate
from align.core.mode import AlignmentMode, Info, Need, ReportsKL
from align.core.model import NoisyState
from align.core.option import above, at_least, between, option, rising_to
from align.core.path import expand
from align.core.problem import Problem
from align.core.streams import Streams
from align.errors import PartError
from align.modes.sampling import dynamics as law
from align.modes.sampling.particles import Potential, Resample, Selection, Weights, rows_of


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
        weights: what the particles have earned.
        effort: Σ ½ ‖push‖²/std² of the steps so far, (M · B,): Girsanov's ½ ∫ ‖guidance‖²/σ² dt.
        winner: number of the particle that is each sample's result, (B,), after the last step.
    """

    x: Tensor
    weights: Weights
    path_kl: Tensor
    winner: Tensor


@final
@attrs.frozen(kw_only=True)
class Steer(AlignmentMode[Steered], ReportsKL[Steered]):
    """Samples p*(x) ∝ p(x) e^{r(x)} by Doob's transform of the flow.

        ode:      dx = (b + (σ²/2) ∇V) dt
        sde:      dx = (b + (σ²/2) s + σ² ∇V) dt + σ dW
        ddpm:     the SDE's transition for a posterior that is a point, at D*
        renoise:  x' = β' D* + α' ε with fresh noise ε;   ddim: with the noise that x holds now

    With M particles and systematic resampling, weights e^V̂ and the ratio of base and guided
    transitions make p* the exact target as M grows, however poor the guidance (twisted sequential
    Monte Carlo; with potentials of its own, FK steering). "best" and "best_per_particle" with
    estimator 'search' and 'renoise' or 'ddim' are MFM-Search: ascent, not sampling. So is
    `guidance_norm = "renorm"`, which keeps the direction of the guidance alone.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 37 to 39 and 136,
    Algorithm 4; Practical and asymptotically exact conditional sampling in diffusion models, Wu et
    al., 2023, arXiv:2306.17775, Algorithm 1; A general framework for inference-time scaling and
    steering of diffusion models, Singhal et al., 2025, arXiv:2501.06848, section 3.
    """

    kind: ClassVar[str] = "steer"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "estimator", "reward"})

    times: tuple[float, ...] = option(
        "times to stop at, up to 1; instead of steps, start and power",
        default=(),
        check=rising_to(1),
    )
    steps: int = option(
        "steps from noise to data",
        default=attrs.Factory(lambda spec: len(spec.times) - 1 if spec.times else 50, True),
        check=_agree,
        shown="50",
    )
    dynamics: law.Dynamics = option(
        "Euler steps without noise or with it, or steps by way of clean states", default="ode"
    )
    start: float = option("time at which the noise is put", default=0.01, check=between(0, 0.99))
    power: float = option("above 1 the first steps are shorter", default=1.0, check=above(0))
    clamp: float = option("largest σ²/2, the noise level of the path", default=25.0, check=above(0))
    clamp_guidance: bool = option(
        "also multiply the guidance by min(1, clamp / (σ²/2)), as published code does",
        default=False,
    )
    guidance_norm: Literal["none", "clip", "renorm"] = option(
        "compare guidance with the flow: not at all, as an upper bound, always", default="none"
    )
    scale: float = option("factor of the guidance", default=1.0, check=at_least(0))
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
            if self.dynamics not in ("sde", "ddpm"):
                raise ValueError(
                    "particles are weighed by their transitions; use dynamics 'sde' or 'ddpm', or"
                    " resample 'best' or 'best_per_particle'"
                )
        elif self.resample == "systematic":
            raise ValueError("resample 'systematic' needs more than one of 'particles'")

    def init(self, problem: Problem, streams: Streams) -> Steered:
        """Noise from N(0, I), unscaled."""
        model, rows = problem.model, streams.particles(self.particles)
        x = rows.fold_in("start").normal(model.shape).to(model.device, model.dtype)
        weights = Weights.equal(self.particles, len(streams.samples), x.device)
        return Steered(x, weights, weights.log.new_zeros(len(x)), weights.log.new_zeros(0).long())

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Steered, index: int, streams: Streams
    ) -> tuple[Steered, Info]:
        """One step; costs one estimate a particle, and a network call where that made none."""
        if problem.estimator is None:
            raise PartError("mode 'steer' needs an estimator")
        rows, x = streams.particles(self.particles), state.x
        times = self.times or law.grid(self.steps, self.start, self.power)
        t, u = (x.new_full((len(x),), time) for time in times[index : index + 2])
        noisy = NoisyState(x, t, problem.cond.tile(self.particles))
        estimate = problem.estimator.estimate(
            problem, noisy, streams=rows.fold_in("estimate", index)
        )
        told = estimate.numbers()
        state, estimate, weighed = self._selected(state, estimate, index, streams)
        noisy = attrs.evolve(noisy, x=state.x)
        state, guided = self._moved(problem, state, noisy, u, estimate, rows.fold_in("step", index))
        law.check(state.x, guided)
        if index + 1 == self.steps:
            state = self._ended(problem, state, noisy, streams)
        return state, Info(told | weighed | {"guidance": guided})

    def finish(self, problem: Problem, state: Steered) -> Tensor:
        """The chosen particle of each sample at t = 1, (B, *S)."""
        return state.x[rows_of(state.winner[None])]

    def path_kl(self, state: Steered) -> float | None:
        """Girsanov: KL of the guided paths from the base's, which bounds that of x1."""
        alone = self.dynamics in ("sde", "ddpm") and self.particles == 1
        return float(state.path_kl.mean()) if alone else None

    @property
    def _selection(self) -> Selection:
        return Selection(
            resample=self.resample, potential=self.potential, ess_threshold=self.ess_threshold
        )

    def _selected(
        self, state: Steered, estimate: Estimate, index: int, streams: Streams
    ) -> tuple[Steered, Estimate, dict[str, float]]:
        """Weigh the particles by what the estimate says, and replace the poor ones."""
        if self.particles == 1 or index % self.resample_every:
            return state, estimate, {}
        value = estimate.value.double().unflatten(0, (self.particles, -1))
        weights, source, numbers = self._selection.survivors(
            state.weights, value, index, streams.fold_in("resample", index)
        )
        state = attrs.evolve(state, weights=weights)
        if source is None:
            return state, estimate, numbers
        rows = rows_of(source)
        state = attrs.evolve(state, x=state.x[rows], path_kl=state.path_kl[rows])
        return state, estimate.rows(rows), numbers

    def _moved(
        self,
        problem: Problem,
        state: Steered,
        noisy: NoisyState,
        u: Tensor,
        estimate: Estimate,
        streams: Streams,
    ) -> tuple[Steered, float]:
        """Take the step to times `u`; also the length of the guidance over that of the drift."""
        model, path, x, t = problem.model, problem.model.path, noisy.x, noisy.t
        if estimate.denoiser is None:
            velocity = model.velocity(x, t, noisy.cond)
        else:  # what an estimator found on its way is not asked for again
            velocity = path.velocity_from_denoiser(estimate.denoiser, x, t)
        drift = law.base_drift(path, velocity, x, t, self.dynamics, self.clamp)
        added = law.guidance(path, estimate.shift, t, self.dynamics, self.clamp)
        if self.clamp_guidance:
            added = expand(law.clamped(path, t, self.clamp), x) * added
        added = law.normalise_guidance(added, drift, self.guidance_norm, self.scale)
        guided = law.norms(added) / law.norms(drift).clamp(min=torch.finfo(x.dtype).tiny)
        mean, push, std = law.transition(path, drift, added, x, t, u, self.dynamics, self.clamp)
        if self.particles > 1 and self.dynamics == "ddpm":
            # The last step has no noise: where it is weighed, guidance would have no density.
            push = expand(std > 0, push) * push
        if not (std > 0).any():
            return attrs.evolve(state, x=mean + push), float(guided.mean())
        noise = streams.normal(model.shape).to(x)
        state = attrs.evolve(state, x=mean + push + expand(std, x) * noise)
        # log q − log p of Gaussians of deviation `std` whose means are `push` apart.
        apart = (push / expand(std, x)).double()
        half = 0.5 * apart.square().flatten(1).sum(1)
        lost = half + (apart * noise).flatten(1).sum(1)
        weights = state.weights.moved(-lost.unflatten(0, (self.particles, -1)))
        state = attrs.evolve(state, weights=weights, path_kl=state.path_kl + half)
        return state, float(guided.mean())

    def _ended(
        self, problem: Problem, state: Steered, noisy: NoisyState, streams: Streams
    ) -> Steered:
        """Choose the particle of each sample; with more than one that costs a reward each."""
        count = self.particles
        if count == 1:
            return attrs.evolve(state, winner=torch.zeros_like(noisy.t).long())
        reward = problem.reward_of(state.x[None], noisy.cond)[0].double().unflatten(0, (count, -1))
        weights, winner = self._selection.winner(state.weights, reward, streams.fold_in("chosen"))
        return attrs.evolve(state, weights=weights, winner=winner)
