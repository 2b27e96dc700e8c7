"""Flow map reward guidance: a jump of the map and a step up the reward, in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final, Literal, final

import attrs
import torch
from torch import Tensor

from align.core.checks import read
from align.core.dynamics import GuidanceNorm, normalise_guidance, norms
from align.core.errors import PartError
from align.core.mode import AlignmentMode, Info, Need, UsesRewardGradient
from align.core.model import FlowMap, FlowModel, ModelSpec
from align.core.option import ConfigError, at_least, option
from align.core.path import times_of
from align.core.problem import Problem
from align.core.streams import Streams
from align.modes.sampling.ahead import check_jumps, look_ahead, problems_of_jumps
from align.modes.sampling.rollout import (
    TIME_GRID_HELP,
    TimeGrid,
    check_finite,
    check_power,
    check_start,
    first_states,
    time_grid,
)

_CURE: Final = "use mode 'steer'"


@final
@attrs.frozen(eq=False)
class Guided:
    """B samples at the time that the next step starts from.

    Attributes:
        x: states, (B, *S).
        times: that steps stop at, rising, up to 1.
    """

    x: Tensor
    times: tuple[float, ...]


@final
@attrs.frozen(kw_only=True)
class FlowMapGuidance(AlignmentMode[Guided], UsesRewardGradient):
    """Models with a flow map: climbs the reward in few steps.

    A step from t to u is a jump of the flow map, and then a move up the reward of where the flow
    leads:

        x̃ = X_{t,u}(x),   x' = x̃ + (u − t) λ ∇R_u(x̃),   R_u(x) = r(X_{u,1}(x)),   λ = `scale`.

    In many steps that is the control v of ẋ = b + v which makes r(x1) − ∫ ‖v‖² dt / (2 λ) highest,
    for small λ; and for any λ where data are Gaussian and the reward is linear. It trades reward
    for effort, sample by sample, and does not sample p e^r. Jumps are exact at any length, so that
    few steps lose only of the guidance. If all steps are guided, the last move is that of clean
    states, which nothing holds to the data; with fewer `guided_steps` the flow brings them back.

    Costs two jumps, a reward and the way back through one jump and the reward a guided step.

    Reference: How to guide your flow: few-step alignment via flow map reward guidance (FMRG), Huang
    et al., 2026, arXiv:2604.27147, by its page (flow-map-reward-guidance.github.io, commit 05c8aa2,
    "Operator splitting" and "Exact optimal control"). Its code (github.com/jrrhuang/fmrg, commit
    924671b, fluxfm_sampler_reward.py, FMRG-J with 'flow_map2') takes the gradient at x instead, and
    may repeat it; `guidance_norm = "renorm"` is its `grad_norm_mode`, `guided_steps` its
    `early_stop`. FMRG-E, without the map's Jacobian, is left out.
    """

    kind: ClassVar[str] = "fmrg"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "reward"})

    steps: int = option("steps from noise to data", default=8, check=at_least(1), grows="calls")
    scale: float = option("factor λ of the guidance", default=1.0, check=at_least(0))
    guidance_norm: GuidanceNorm = option(
        "length of the guidance: as it is ('none'), at most that of the jump's mean velocity"
        " ('clip'), or always that ('renorm')",
        default="none",
    )
    guided_steps: int = option(
        "how many of the steps are guided, from the first on",
        default=attrs.Factory(lambda spec: spec.steps, takes_self=True),
        check=at_least(0),
        shown="all",
    )
    grid: TimeGrid = option(TIME_GRID_HELP, default="model")
    start: float = option("time at which the noise is put", default=0.01, check=check_start)
    power: float = option("above 1 the first steps are shorter", default=1.0, check=check_power)

    def __attrs_post_init__(self) -> None:
        if self.guided_steps > self.steps:
            raise ValueError(
                f"'guided_steps' must be at most 'steps', {self.steps}, got {self.guided_steps}"
            )

    @property
    def gradient_of(self) -> Literal["", "reward", "draws"]:
        """The reward's, through the map's jump."""
        return "reward"

    def spec_problems(self, model: ModelSpec) -> Iterator[ConfigError]:
        """That the model has no flow map."""
        return problems_of_jumps(model, _CURE, FlowMap)

    def check_model(self, model: FlowModel) -> None:
        """Raise OptionError where the model has no flow map."""
        check_jumps(model, _CURE, FlowMap)

    def init(self, problem: Problem, streams: Streams) -> Guided:
        """The noise that `steer` starts from."""
        model = problem.model
        noise = streams.fold_in("start").normal(model.shape).to(model.device, model.dtype)
        times = time_grid(model, self.steps, self.grid, self.start, self.power)
        return Guided(first_states(model, noise, self.steps, self.grid), tuple(times))

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Guided, index: int, streams: Streams
    ) -> tuple[Guided, Info]:
        """A jump, and a move up the reward where the step is guided."""
        model, cond = problem.model, problem.cond
        flow = model.capability(FlowMap)
        if flow is None:
            raise PartError(f"mode 'fmrg' needs a model with a flow map; {_CURE}")
        now, later = state.times[index : index + 2]
        x = flow.jump(state.x, times_of(state.x, now), times_of(state.x, later), cond)
        if index >= self.guided_steps:
            return attrs.evolve(state, x=x), Info({})
        ends = later == 1.0
        ahead = look_ahead(
            problem,
            x,
            cond,
            lambda at, rows: at if ends else flow.to_data(at, times_of(at, later), rows),
        )
        velocity = (x - state.x) / (later - now)
        guidance = normalise_guidance(ahead.gradient, velocity, self.guidance_norm, self.scale)
        tiny = torch.finfo(velocity.dtype).tiny
        strength = (norms(guidance) / norms(velocity).clamp(min=tiny)).mean()
        x = x + (later - now) * guidance
        check_finite(x, strength)
        numbers = read({"reward": ahead.reward.mean(), "guidance": strength})
        return attrs.evolve(state, x=x), Info(numbers, draws=ahead.x1[None])

    def finish(self, problem: Problem, state: Guided) -> Tensor:
        """The states at t = 1, (B, *S)."""
        return state.x
