"""Fine-tuning by flow matching whose samples count by their advantage."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
from torch import Tensor

from align.core.objective import Loss
from align.core.option import above, between, option
from align.core.streams import Streams
from align.modes.finetune.objective import FinetuneObjective
from align.modes.finetune.target import TiltedTarget


@final
@attrs.frozen(kw_only=True)
class AdvantageWeighted(FinetuneObjective):
    """finetune: flow matching by linear weights, for any reward.

    Flow matching whose samples count by their advantage, held at the base model.

        A ‖b̂ − v‖² + w ‖b̂ − b‖²,   A = r(x1) − c, at least −w,   w = `base_weight`.

    x1 is a clean state, x_t the same with noise, v the velocity that leads from there to x1, b the
    base model's velocity and c the mean reward of a prompt. Where data have the base model's law, b
    is the mean of v, so that this is (w + A) ‖b̂ − v‖² less what does not depend on b̂ on average.
    Its minimum is E[(w + A) v | x_t] / E[w + A | x_t], the velocity of

        p(x1) max(0, 1 + A/w).

    So it is no exponential tilt, but agrees with p e^{A/w} to first order; the published methods
    meet high rewards by many such steps, each from samples of the flow so far, and `path = "tilt"`
    takes as many as there are stages. No posterior draws, no e^r.

    Rows count 1 / (1 + c_t²), which compares clean states. The published code also divides A by the
    spread of a prompt's rewards, has a ratio of old and new likelihoods that is 1 in the first step
    after sampling, and a robust norm; these are left out. The minimum was derived for align.

    Reference: Advantage Weighted Matching, Xue et al., 2025, arXiv:2509.25050, by its abstract and
    code: github.com/scxue/advantage_weighted_matching, commit 12b1397, scripts/train_sd3_awm.py
    (`policy_loss` and `kl_loss`, with kl_weight "Uniform").
    """

    kind: ClassVar[str] = "awm"
    needs_gradient: ClassVar[bool] = False
    needs_sampler: ClassVar[bool] = False
    weighs: ClassVar[bool] = False
    takes_level: ClassVar[bool] = True

    base_weight: float = option(
        "weight of the distance from the base model, in nats of reward",
        default=1.0,
        check=above(0),
    )
    start: float = option("earliest time that is trained", default=0.0, check=between(0, 0.99))

    def level(self, rewards: Tensor) -> Tensor:
        """The mean of rewards r (n,)."""
        return rewards.mean(0)

    def loss(self, target: TiltedTarget, rows: Streams) -> Loss:
        """Both terms, over w so that the loss has the scale of a velocity's."""
        (noisy, x1), path = target.noisy(rows, self.start), target.student.path
        draws = target.clean_draw(noisy, x1)
        level = target.log_normalizer[target.prompt_numbers(noisy)]
        advantage = (draws.rewards[0].double() - level).clamp(min=-self.base_weight)
        velocity, base = target.velocity(noisy), target.base_velocity(noisy)
        goal = path.velocity_from_denoiser(draws.x1[0], noisy.x, noisy.t)
        to_goal, to_base = (
            (velocity - other).flatten(1).double().square().mean(1) for other in (goal, base)
        )
        row_weights = 1 / (1 + path.denoiser_to_velocity(noisy.t).double().square())
        values = row_weights * (advantage / self.base_weight * to_goal + to_base)
        return Loss(values, {"reward": draws.rewards[0].detach()})
