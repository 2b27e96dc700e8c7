"""Fine-tuning by the gradient of the reward through the sampler."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch

from align.core.objective import Loss
from align.core.option import at_least, option
from align.core.path import expand, times_of
from align.core.streams import Streams
from align.modes.finetune.objective import FinetuneObjective
from align.modes.finetune.target import TiltedTarget


@final
@attrs.frozen(kw_only=True)
class Draft(FinetuneObjective):
    """finetune: climbs the reward through the sampler.

    −r(x1) of the student's own samples x1, through the last `last` of `flow_steps` Euler steps.

    A baseline: its minimum is the maximum of the reward, since the base law is not part of it. It
    is on-policy, and a step costs as many network calls as a sample.

    Reference: Directly Fine-Tuning Diffusion Models on Differentiable Rewards, Clark et al., 2023,
    arXiv:2309.17400, section 4 (DRaFT-K); Aligning Text-to-Image Diffusion Models with Reward
    Backpropagation, Prabhudesai et al., 2023, arXiv:2310.03739.
    """

    kind: ClassVar[str] = "draft"
    needs_gradient: ClassVar[bool] = True
    needs_sampler: ClassVar[bool] = False
    weighs: ClassVar[bool] = False

    last: int = option(
        "number of last Euler steps that the gradient goes through", default=1, check=at_least(1)
    )
    flow_steps: int = option(
        "Euler steps from noise to a sample", default=25, check=at_least(1), grows="calls"
    )

    def loss(self, target: TiltedTarget, rows: Streams) -> Loss:
        """−r of a sample for each row."""
        _, cond = target.clean(rows)
        student = target.student
        x = rows.fold_in("start").normal(student.shape).to(student.device, student.dtype)
        for step in range(self.flow_steps):
            t = times_of(x, step / self.flow_steps)
            with torch.set_grad_enabled(step >= self.flow_steps - self.last):
                velocity = student.velocity(x, t, cond)
                x = x + expand(torch.full_like(t, 1 / self.flow_steps), x) * velocity
        with torch.autocast(x.device.type, enabled=False):
            reward = target.problem.reward_of(x[None].to(target.problem.model.dtype), cond)[0]
        return Loss(-reward, {"reward": reward.detach()})
