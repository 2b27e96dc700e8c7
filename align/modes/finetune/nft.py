"""Fine-tuning by what is good and what is bad about clean samples made noisy."""

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
class NegativeAware(FinetuneObjective):
    """finetune: a first step of the tilt, for any reward.

    Pulls towards samples above the mean reward and pushes away from those below, as DiffusionNFT.

        p ‖(1 − β) b + β b̂ − v‖² + (1 − p) ‖(1 + β) b − β b̂ − v‖²,
        p = ½ (1 + A/clip),   A = r(x1) − c cut to ±clip,   β = 1/clip.

    x1 is a clean state, x_t the same with noise, v the velocity that leads from there to x1, b the
    base model's velocity and c the mean reward of a prompt. Up to a factor and what does not depend
    on b̂ this is ‖b̂ − b − A (v − b)‖², whose minimum is b + E[A (v − b) | x_t]: where nothing is cut
    and data have the base model's law, b + Cov[r, v | x_t], the derivative of the velocity of p
    e^{a r} by a, at a = 0. So it is the tilted law to first order in r; `path = "tilt"` takes as
    many such steps as there are stages, each from samples of the flow so far, and meets the tilted
    law as they grow in number. No posterior draws, no e^r.

    Rows count 1 / (1 + c_t²), which compares clean states. The published code also divides by the
    mean absolute error of each row; that moves the minimum, and is left out.

    Reference: DiffusionNFT, Zheng et al., 2025, arXiv:2509.16117 (abstract, and public
    implementations of its loss, were read; p, both predictions and the cut are theirs, β = 1/clip
    and the minimum were derived for align); Tilt Matching, 2025, arXiv:2512.21829 (the derivative).
    """

    kind: ClassVar[str] = "nft"
    needs_gradient: ClassVar[bool] = False
    needs_sampler: ClassVar[bool] = False
    weighs: ClassVar[bool] = False
    takes_level: ClassVar[bool] = True

    clip: float = option(
        "how far from the mean a reward counts, in nats", default=5.0, check=above(0)
    )
    start: float = option("earliest time that is trained", default=0.0, check=between(0, 0.99))

    def level(self, rewards: Tensor) -> Tensor:
        """The mean of rewards r (n,)."""
        return rewards.mean(0)

    def loss(self, target: TiltedTarget, rows: Streams) -> Loss:
        """The two regressions, times clip² so that the loss has the scale of a velocity's."""
        (noisy, x1), path = target.noisy(rows, self.start), target.student.path
        draws = target.clean_draw(noisy, x1)
        rewards = draws.rewards[0]
        level = target.log_normalizer[target.prompt_numbers(noisy)]
        advantage = (rewards.double() - level).clamp(-self.clip, self.clip)
        good = 0.5 * (1 + advantage / self.clip)
        velocity, base = target.velocity(noisy), target.base_velocity(noisy)
        goal = path.velocity_from_denoiser(draws.x1[0], noisy.x, noisy.t)
        change = (velocity - base) / self.clip
        towards, away = (
            (base + sign * change - goal).flatten(1).double().square().mean(1) for sign in (1, -1)
        )
        row_weights = 1 / (1 + path.denoiser_to_velocity(noisy.t).double().square())
        values = self.clip**2 * row_weights * (good * towards + (1 - good) * away)
        return Loss(values, {"reward": rewards.detach()})
