"""Fine-tuning by flow matching whose samples count by their advantage."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
from torch import Tensor

from align.core.option import above, option
from align.modes.finetune.advantage import AdvantageObjective, mean_square


@final
@attrs.frozen(kw_only=True)
class AdvantageWeighted(AdvantageObjective):
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

    base_weight: float = option(
        "weight of the distance from the base model, in nats of reward",
        default=1.0,
        check=above(0),
    )

    def values(self, advantage: Tensor, velocity: Tensor, base: Tensor, goal: Tensor) -> Tensor:
        """Both terms, over w so that the loss has the scale of a velocity's."""
        advantage = advantage.clamp(min=-self.base_weight)
        to_goal, to_base = (mean_square(velocity - other) for other in (goal, base))
        return advantage / self.base_weight * to_goal + to_base
