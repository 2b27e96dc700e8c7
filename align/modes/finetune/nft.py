"""Fine-tuning by what is good and what is bad about clean samples made noisy."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
from torch import Tensor

from align.core.option import above, option
from align.modes.finetune.advantage import AdvantageObjective, mean_square


@final
@attrs.frozen(kw_only=True)
class NegativeAware(AdvantageObjective):
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

    clip: float = option(
        "how far from the mean a reward counts, in nats", default=5.0, check=above(0)
    )

    def values(self, advantage: Tensor, velocity: Tensor, base: Tensor, goal: Tensor) -> Tensor:
        """The two regressions, times clip² so that the loss has the scale of a velocity's."""
        good = 0.5 * (1 + advantage.clamp(-self.clip, self.clip) / self.clip)
        change = (velocity - base) / self.clip
        towards, away = (mean_square(base + sign * change - goal) for sign in (1, -1))
        return self.clip**2 * (good * towards + (1 - good) * away)
