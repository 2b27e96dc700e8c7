"""Fine-tuning by the gradient of the reward through the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.option import at_least, option
from align.core.path import expand
from align.core.streams import Streams
from align.modes.finetune.objective import FineTuning
from align.modes.finetune.target import TiltedTarget


@final
@attrs.frozen(kw_only=True)
class Draft(FineTuning):
    """−r(x1) of the student's own samples x1, through the last `last` of `flow_steps` Euler steps.

    A baseline: it climbs the reward and knows no base law, so that the reward's maximum is its
    minimum. On-policy, and a step costs as many network calls as a sample.

    Reference: Directly Fine-Tuning Diffusion Models on Differentiable Rewards, Clark et al., 2023,
    arXiv:2309.17400, section 4 (DRaFT-K); Aligning Text-to-Image Diffusion Models with Reward
    Backpropagation, Prabhudesai et al., 2023, arXiv:2310.03739.
    """

    kind: ClassVar[str] = "draft"
    needs_gradient: ClassVar[bool] = True
    weighs: ClassVar[bool] = False

    last: int = option("last steps that the gradient goes through", default=1, check=at_least(1))
    flow_steps: int = option("Euler steps from noise to a sample", default=25, check=at_least(1))

    @property
    def needs_sampler(self) -> bool:
        """Never."""
        return False

    def losses(self, tilt: TiltedTarget, rows: Streams) -> tuple[Tensor, Mapping[str, Tensor]]:
        """−r (b,), and r."""
        _, cond = tilt.clean(rows)
        student = tilt.student
        x = rows.fold_in("start").normal(student.shape).to(student.device, student.dtype)
        for step in range(self.flow_steps):
            t = torch.full((len(x),), step / self.flow_steps).to(x)
            with torch.set_grad_enabled(step >= self.flow_steps - self.last):
                velocity = student.velocity(x, t, cond)
                x = x + expand(torch.full_like(t, 1 / self.flow_steps), x) * velocity
        with torch.autocast(x.device.type, enabled=False):
            reward = tilt.problem.reward_of(x[None].to(tilt.problem.model.dtype), cond)[0]
        return -reward, {"reward": reward.detach()}
