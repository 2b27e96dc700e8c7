"""Fine-tuning without the gradient of the reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, final

import attrs
import torch
from torch import Tensor

from align.core.option import at_least, between, option
from align.core.streams import Streams
from align.modes.finetune.objective import FineTuning, regressed
from align.modes.finetune.target import TiltedTarget


@final
@attrs.frozen(kw_only=True)
class TiltStein(FineTuning):
    """E e^{r − c} ‖b̂_t(x_t) − v(x̂)‖² for the velocity v(x̂) that leads to a posterior draw x̂.

    On the linear path v = (x̂ − x_t) / (1 − t). The minimum is E[e^r v] / E[e^r], the velocity of
    the tilted law, for any reward, black boxes too. `centred` subtracts from e^{r − c} (b̂ − v) the
    term b − v, whose mean is zero: where r says little, b̂ then stays with b at no noise. Rows
    count 1 / (1 + c_t²), since v is noisy towards t = 1. `by` = "data" takes for x̂ the x1 that
    x_t was made of: reward-weighted flow matching, which needs no sampler.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 20; Tilt Matching,
    2025, arXiv:2512.21829 (the same regression along a path of tilts).
    """

    kind: ClassVar[str] = "stein"
    needs_gradient: ClassVar[bool] = False
    weighs: ClassVar[bool] = True

    draws_from: Literal["sampler", "data"] = option(
        "whose draws: a posterior sampler's, or the one clean state that was made noisy",
        default="sampler",
    )

    draws: int = option("posterior draws at each state", default=1, check=at_least(1))
    start: float = option("earliest time that is trained", default=0.0, check=between(0, 0.99))
    centred: bool = option("whether the base model's own noise is taken off", default=True)

    def __attrs_post_init__(self) -> None:
        if self.draws_from == "data" and self.draws > 1:
            raise ValueError("'draws' must be 1 where 'by' is \"data\": there is one clean state")

    @property
    def needs_sampler(self) -> bool:
        """As `by` says."""
        return self.draws_from == "sampler"

    def losses(self, tilt: TiltedTarget, rows: Streams) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Losses (b,), and the means of r and of e^{r − c} over the draws."""
        (noisy, x1), path = tilt.noisy(rows, self.start), tilt.student.path
        if self.draws_from == "data":
            draws = tilt.own(noisy, x1)
        else:
            draws = tilt.draws(noisy, self.draws, False, rows.fold_in("draws"))
        targets = torch.stack(
            [path.velocity_from_denoiser(one, noisy.x, noisy.t) for one in draws.x1]
        )
        share = 1 / (1 + path.denoiser_to_velocity(noisy.t).square())
        losses, velocity, said = regressed(tilt, noisy, draws, targets, share)
        if self.centred:
            # Its slope in b̂ is 2 (v − b), less the mean of 2 e^{r − c} (v − b) where r is flat.
            noise = (targets - tilt.base(noisy)).mean(0)
            losses = losses + share.double() * 2 * (velocity * noise).flatten(1).double().mean(1)
        return losses, said
