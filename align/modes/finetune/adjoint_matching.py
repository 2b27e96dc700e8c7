"""Fine-tuning by matching the lean adjoint of simulated memoryless paths."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.model import Condition, NoisyState
from align.core.objective import Loss
from align.core.option import at_least, option
from align.core.path import Path, expand
from align.core.streams import Streams
from align.estimators.gradient import shift_of_gradient, through_denoiser
from align.modes.finetune.objective import FinetuneObjective
from align.modes.finetune.target import TiltedTarget


def step_factors(path: Path, t: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, g and std of the memoryless step x' = a x + g D(x) + std ε from t to u, all (b,).

    a = κ α_u/α_t, g = β_u − β_t a and std = α_u √(1 − κ²), with κ = β_t α_u / (β_u α_t).

    Reference: Denoising diffusion implicit models, Song, Meng, Ermon, 2020, arXiv:2010.02502,
    Eq. 12 (its stochastic end).
    """
    alpha_u = torch.where(u < 1, path.alpha(u), 0)
    kept = path.beta(t) * alpha_u / (path.beta(u) * path.alpha(t))
    state = kept * alpha_u / path.alpha(t)
    return state, path.beta(u) - path.beta(t) * state, alpha_u * (1 - kept**2).clamp(min=0).sqrt()


@final
@attrs.frozen(kw_only=True)
class AdjointMatching(FinetuneObjective):
    """finetune: the tilted law, by gradients at whole samples.

    E Σ_t (2/σ_t²) ‖b̂_t(x_t) − (b_t(x_t) − (σ_t²/2) ã_t)‖² along paths of the student.

    Paths are those of the memoryless process of the student's flow, x' = a x + g D̂(x) + std ε. The
    lean adjoint goes back along each by the base model alone:

        ã_1 = −∇r(x_1),   ã_t = a ã_u + g (∂D_t/∂x)ᵀ ã_u.

    At the minimum the student's paths have the law p*, and E[−ã_t | x_t] = ∇V_t, so that the
    velocity is b + (σ²/2) ∇V: the tilted law, as steps get short. It asks for no posterior draws
    and no e^r, whose variance grows with the reward; a step costs 2 · `flow_steps` network calls
    and as many backward passes a row, and steps on `matched` states of each path. The times between
    0 and 1 are moved together at random, so that all of them are trained.

    Simulated in steps by way of the denoiser (`ddpm`), which need no cut of σ near t = 0 where the
    paper has Euler steps and adds a step's length to t. Rows count 1/(σ²/2 + 1/`flow_steps`).

    Reference: Adjoint Matching, Domingo-Enrich, Drozdzal, Karrer, Chen, 2024, arXiv:2409.08861, by
    its abstract and by a public implementation, github.com/shawnye1994/soc-fine-tuning-sd, commit
    918219f, src/trainers/am_trainer.py: `compute_adjoints` (the lean adjoint, from −∇r back through
    the base model's step without noise) and `compute_loss` (‖√δ u + √δ σ ã‖²). The equations of the
    paper itself were not read.
    """

    kind: ClassVar[str] = "adjoint_matching"
    needs_gradient: ClassVar[bool] = True
    needs_sampler: ClassVar[bool] = False
    weighs: ClassVar[bool] = False

    flow_steps: int = option(
        "steps of a simulated path", default=25, check=at_least(3), grows="calls"
    )
    matched: int = option(
        "states of each path at which the velocity is trained", default=4, check=at_least(1)
    )

    def loss(self, target: TiltedTarget, rows: Streams) -> Loss:
        """The regression on b − (σ²/2) ã at some states of each path."""
        _, cond = target.clean(rows)
        times = self._times(target, rows)
        states, x1 = self._simulated(target, cond, times, rows)
        with torch.autocast(x1.device.type, enabled=False):
            goals, reward = self._goals(target, cond, times, states, x1)
        chosen = rows.fold_in("matched").uniform((self.matched,)).to(x1.device)
        chosen = (chosen * len(states)).long().mT  # (matched, b)
        places = expand(chosen, states).expand(-1, *states.shape[1:])
        t = times[1:-1].gather(0, chosen).flatten()
        noisy = NoisyState(states.gather(0, places).flatten(0, 1), t, cond.tile(self.matched))
        squares = (target.velocity(noisy) - goals.gather(0, places).flatten(0, 1)).flatten(1)
        row_weights = 1 / (target.student.path.half_variance(t).double() + 1 / self.flow_steps)
        values = row_weights * squares.double().square().mean(1)
        return Loss(values.unflatten(0, (self.matched, -1)).mean(0), {"reward": reward})

    def _times(self, target: TiltedTarget, rows: Streams) -> Tensor:
        """0, (k + o)/K for k = 1 .. K − 1 and an offset |o| < 1/2 of each row, 1: (K + 1, b)."""
        offset = rows.fold_in("offset").uniform(()).to(target.problem.model.device) - 0.5
        steps = torch.arange(self.flow_steps + 1, device=offset.device)[:, None]
        times = (steps + offset) / self.flow_steps
        times[0], times[-1] = 0.0, 1.0
        return times.to(torch.promote_types(target.problem.model.dtype, torch.float32))

    @torch.no_grad()
    def _simulated(
        self, target: TiltedTarget, cond: Condition, times: Tensor, rows: Streams
    ) -> tuple[Tensor, Tensor]:
        """States of the student's paths at all times between, (K − 1, b, *S), and their ends."""
        base, path = target.problem.model, target.student.path
        x = rows.fold_in("start").normal(base.shape).to(base.device, base.dtype)
        states = list[Tensor]()
        for index in range(self.flow_steps):
            t, u = times[index], times[index + 1]
            velocity = target.velocity(NoisyState(x, t, cond)).to(x)
            denoiser = path.denoiser_from_velocity(velocity, x, t)
            state, gain, std = step_factors(path, t, u)
            noise = rows.fold_in("step", index).normal(base.shape).to(x)
            x = expand(state, x) * x + expand(gain, x) * denoiser + expand(std, x) * noise
            states.append(x)
        return torch.stack(states[:-1]), x

    def _goals(
        self, target: TiltedTarget, cond: Condition, times: Tensor, states: Tensor, x1: Tensor
    ) -> tuple[Tensor, Tensor]:
        """b − (σ²/2) ã at the states, (K − 1, b, *S), and the rewards of the ends, (b,)."""
        problem, path = target.problem, target.student.path

        def at_ends(rows: slice) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                clean = x1[rows].detach().requires_grad_()
                reward = problem.reward_of(clean[None], cond.rows(rows))[0]
                (gradient,) = torch.autograd.grad(reward.sum(), clean)
            return gradient, reward.detach()

        ends = problem.chunks.cut("gradient of the reward", len(x1), at_ends)
        gradient, reward = (torch.cat(part) for part in zip(*ends, strict=True))
        goals = torch.empty_like(states)
        for index in range(len(states), 0, -1):
            t, u, x = times[index], times[index + 1], states[index - 1]
            state, gain, _ = step_factors(path, t, u)
            led_back, denoiser = through_denoiser(problem, NoisyState(x, t, cond), gradient)
            gradient = expand(state, x) * gradient + expand(gain, x) * led_back
            tilted = denoiser + shift_of_gradient(path, gradient, t)
            goals[index - 1] = path.velocity_from_denoiser(tilted, x, t)
        return goals, reward
