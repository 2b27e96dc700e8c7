"""Fine-tuning by the gradient of the reward at one guess of the clean state."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch

from align.core.model import NoisyState
from align.core.objective import Loss
from align.core.option import at_least, between, option
from align.core.path import expand
from align.core.streams import Streams
from align.modes.finetune.objective import FinetuneObjective
from align.modes.finetune.target import TiltedTarget


@final
@attrs.frozen(kw_only=True)
class RewardFeedback(FinetuneObjective):
    """finetune: climbs the reward of guesses from late times.

    −r(D̂_t(x_t)) of the student's denoiser D̂, where x_t is the student's own state at a late time.

    Each row is simulated to a time of its own, uniform from `earliest` on, without gradients; one
    more call guesses the clean state from there, and the gradient goes through that call alone.

    A baseline, as `draft` is: its minimum is the maximum of the reward at the guesses, since the
    base law is not part of it. The gradient reaches earlier times than the last steps of `draft`,
    at the price that the reward sees a mean of clean states.

    The published loss is max(0, 2 − r) with the reward's scale set by hand; align has −r, of the
    weights that a recipe says, and stops at times between the steps.

    Reference: ImageReward (ReFL), Xu et al., 2023, arXiv:2304.05977, by its code:
    github.com/THUDM/ImageReward, commit 1beb4e4, ImageReward/ReFL.py (`train`: 40 steps, of which
    the last that is made is number 31 to 40).
    """

    kind: ClassVar[str] = "refl"
    needs_gradient: ClassVar[bool] = True
    needs_sampler: ClassVar[bool] = False
    weighs: ClassVar[bool] = False

    earliest: float = option(
        "earliest time from which a clean state is guessed", default=0.75, check=between(0, 0.99)
    )
    flow_steps: int = option(
        "Euler steps from noise to there", default=25, check=at_least(1), grows="calls"
    )

    def loss(self, target: TiltedTarget, rows: Streams) -> Loss:
        """−r of the guess for each row."""
        _, cond = target.clean(rows)
        student, problem = target.student, target.problem
        x = rows.fold_in("start").normal(student.shape).to(student.device, student.dtype)
        stop = self.earliest + (1 - 1e-3 - self.earliest) * rows.fold_in("time").uniform(())
        stop = stop.to(x.device, torch.promote_types(x.dtype, torch.float32))
        with torch.no_grad():
            for step in range(self.flow_steps):
                velocity = target.velocity(NoisyState(x, stop * (step / self.flow_steps), cond))
                x = x + expand((stop / self.flow_steps).to(x), x) * velocity
        noisy = NoisyState(x, stop, cond)
        guess = student.path.denoiser_from_velocity(target.velocity(noisy).to(x), x, stop)
        with torch.autocast(x.device.type, enabled=False):
            reward = problem.reward_of(guess[None].to(problem.model.dtype), cond)[0]
        return Loss(-reward, {"reward": reward.detach()})
