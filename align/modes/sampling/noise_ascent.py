"""Noise optimisation: the noise climbs the reward of its preview, and the flow follows it."""

from __future__ import annotations

import math
from typing import ClassVar, Final, Literal, final

import attrs
import torch
from torch import Tensor

from align.core.dynamics import norms
from align.core.mode import UsesRewardGradient
from align.core.option import above, at_least, option
from align.core.path import expand
from align.core.problem import Problem
from align.core.streams import Streams
from align.modes.sampling.ahead import look_ahead
from align.modes.sampling.noises import NoiseMode, Noises

_LONGEST: Final = 0.2
"""Length of the longest step, in units of the usual length √d of noise of d numbers."""


@final
@attrs.frozen(kw_only=True)
class NoiseAscent(NoiseMode, UsesRewardGradient):
    """The noise climbs the reward of its preview.

    Gradient ascent of a noise, judged by its preview; the flow follows the noise on the way whose
    preview has the highest reward, the first where none is better.

        J(ε) = r(X_{0,1}(ε)) − γ (½ ‖ε‖² − (d − 1) log ‖ε‖),   ε ← ε + η ∇J,   γ = `norm_weight`.

    The second term is the log-density of the length of noise of d numbers, so that a noise stays as
    long as noises are: with γ = 1 reward and length weigh as in the tilted law. But a mode of J is
    no sample of that law: where the direction of the noise is free the reward decides alone. Each
    step is at most 0.2 √d long.

    Costs a preview, a reward and the way back through both a round. With `preview_steps` the way
    back goes through that many steps of the flow, all of which are held in memory.

    Reference: ReNO: Enhancing One-step Text-to-Image Models through Reward-based Noise
    Optimization, Eyring et al., 2024, arXiv:2406.04312, by its code: github.com/ExplainableML/ReNO,
    commit 172e997, training/trainer.py (objective, cut gradients and the best iterate; momentum is
    left out).
    """

    kind: ClassVar[str] = "noise_ascent"

    rounds: int = option("steps of the ascent", default=20, check=at_least(1))
    step_size: float = option("factor η of a step", default=0.3, check=above(0))
    norm_weight: float = option(
        "weight γ of the log-density of the noise's length", default=1.0, check=at_least(0)
    )

    @property
    def gradient_of(self) -> Literal["", "reward", "draws"]:
        """The reward's, through the map's jump."""
        return "reward"

    def look(self, problem: Problem, state: Noises, index: int, streams: Streams) -> Noises:
        """J and its gradient at the noises, and the step that they take."""
        start, model = state.onward, problem.model
        ahead = look_ahead(
            problem, start, problem.cond, lambda noise, cond: self.previews(model, noise, cond)
        )
        move = self.step_size * (ahead.gradient + self._log_density_gradient(start))
        longest = _LONGEST * math.sqrt(start[0].numel())
        move = move * expand((longest / norms(move).clamp(min=longest)).to(move), move)
        better = state.or_better(start, ahead.x1, ahead.reward.to(state.score))
        return attrs.evolve(better, onward=start + move)

    def _log_density_gradient(self, noise: Tensor) -> Tensor:
        """Gradient of γ times the log-density of the lengths of noises, both (B, *S)."""
        squares = noise.flatten(1).square().sum(1)
        squares = squares.clamp(min=torch.finfo(squares.dtype).tiny)
        stretch = (noise[0].numel() - 1) / squares - 1
        return self.norm_weight * expand(stretch, noise) * noise
