"""Steering: the flow with the drift that a reward adds, at every step."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import attrs
import torch
from torch import Tensor

from align.core.mode import AlignmentMode, Info, Need
from align.core.model import At
from align.core.option import above, at_least, between, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.errors import PartError
from align.modes import dynamics as law


@final
@attrs.frozen(eq=False)
class Steered:
    """States x (B, *S) at the time that the next step starts from."""

    x: Tensor


@final
@attrs.frozen(kw_only=True)
class Steer(AlignmentMode[Steered]):
    """Samples p*(x) ∝ p(x) e^{r(x)} by Doob's transform of the flow.

        ode:  dx = (b + (σ²/2) ∇V) dt
        sde:  dx = (b + (σ²/2) s + σ² ∇V) dt + σ dW

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 37 to 39 and 136.
    """

    kind: ClassVar[str] = "steer"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "estimator", "reward"})

    steps: int = option("Euler steps from noise to data", default=50, check=at_least(1))
    dynamics: Literal["ode", "sde"] = option("without noise or with it", default="ode")
    start: float = option("time at which the noise is put", default=0.01, check=between(0, 0.99))
    power: float = option("above 1 the first steps are shorter", default=1.0, check=above(0))
    clamp: float = option("largest σ²/2, the noise level of the path", default=25.0, check=above(0))
    normalise: Literal["none", "clip", "renorm"] = option(
        "compare guidance with the flow: not at all, as an upper bound, always", default="none"
    )
    scale: float = option("factor of the guidance", default=1.0, check=at_least(0))

    def init(self, problem: Problem, streams: Streams) -> Steered:
        """Noise from N(0, I), unscaled."""
        model = problem.model
        return Steered(streams.at("start").normal(model.shape).to(model.device, model.dtype))

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Steered, index: int, streams: Streams
    ) -> tuple[Steered, Info]:
        """One Euler step; costs one network call and one estimate a state."""
        if problem.estimator is None:
            raise PartError("mode 'steer' needs an estimator")
        model, x = problem.model, state.x
        times = law.grid(self.steps, self.start, self.power)
        t, u = (x.new_full((len(x),), times[j]) for j in (index, index + 1))
        at = At(x, t, problem.cond)
        estimate = problem.estimator.estimate(problem, at, streams=streams.at("estimate", index))
        velocity = model.velocity(x, t, problem.cond)
        drift = law.base_drift(model.path, velocity, x, t, self.dynamics, self.clamp)
        added = law.guidance(model.path, estimate.shift, t, self.dynamics, self.clamp)
        added = law.limited(added, drift, self.normalise, self.scale)
        noise = None
        if self.dynamics == "sde":
            noise = streams.at("step", index).normal(model.shape).to(x)
        x = law.advance(model.path, x, drift + added, t, u, noise, self.clamp)
        ratio = law.norms(added) / law.norms(drift).clamp(min=torch.finfo(x.dtype).tiny)
        numbers = {
            "reward": float(estimate.reward.mean()),
            "value": float(estimate.value.mean()),
            "ess": float(estimate.ess.mean()),
            "guidance": float(ratio.mean()),
        }
        return Steered(x), Info(numbers)

    def finish(self, problem: Problem, state: Steered) -> Tensor:
        """The states at t = 1, (B, *S)."""
        return state.x
