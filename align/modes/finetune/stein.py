"""Fine-tuning without the gradient of the reward."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import attrs
import torch

from align.core.objective import Loss
from align.core.option import at_least, between, option
from align.core.streams import Streams
from align.modes.finetune.objective import FinetuneObjective, regression
from align.modes.finetune.target import TiltedTarget


@final
@attrs.frozen(kw_only=True)
class SteinObjective(FinetuneObjective):
    """finetune: the tilted law, for any reward.

    E e^{r − c} ‖b̂_t(x_t) − v(x̂)‖² for the velocity v(x̂) that leads to a posterior draw x̂.

    On the linear path v = (x̂ − x_t) / (1 − t). The minimum is E[e^r v] / E[e^r], the velocity of
    the tilted law, for any reward, black boxes too. `centred` subtracts from e^{r − c} (b̂ − v) the
    term b − v, whose mean is zero: where r says little, b̂ then stays with b at no noise. Rows
    count 1 / (1 + c_t²), since v is noisy towards t = 1. `draws_from = "data"` takes for x̂ the x1
    that x_t was made of: reward-weighted flow matching, which needs no sampler.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 20; Tilt Matching,
    2025, arXiv:2512.21829 (the same regression along a path of tilts).
    """

    kind: ClassVar[str] = "stein"
    needs_gradient: ClassVar[bool] = False
    weighs: ClassVar[bool] = True

    draws_from: Literal["sampler", "data"] = option(
        "where posterior draws come from: the posterior sampler, or the data, whose clean state of"
        " each noisy one is its one draw",
        default="sampler",
    )
    draws: int = option("posterior draws at each state", default=1, check=at_least(1), grows="rows")
    start: float = option("earliest time that is trained", default=0.0, check=between(0, 0.99))
    centred: bool = option(
        "whether the noise that the base model alone explains is subtracted from the loss",
        default=True,
    )

    def __attrs_post_init__(self) -> None:
        if self.draws_from == "data" and self.draws > 1:
            raise ValueError(
                "'draws' must be 1 where 'draws_from' is 'data': there is one clean state"
            )

    @property
    def needs_sampler(self) -> bool:
        """Whether it draws from the posterior: not where the data are the draws."""
        return self.draws_from == "sampler"

    def loss(self, target: TiltedTarget, rows: Streams) -> Loss:
        """The regression on the velocities that lead to posterior draws."""
        (noisy, x1), path = target.noisy(rows, self.start), target.student.path
        if self.draws_from == "data":
            draws = target.clean_draw(noisy, x1)
        else:
            draws = target.draws(noisy, self.draws, False, rows.fold_in("draws"))
        goals = torch.stack([path.velocity_from_denoiser(x, noisy.x, noisy.t) for x in draws.x1])
        row_weights = 1 / (1 + path.denoiser_to_velocity(noisy.t).square())
        velocity, loss = regression(target, noisy, draws, goals, row_weights)
        if not self.centred:
            return loss
        # Its slope in b̂ is 2 (v − b), less the mean of 2 e^{r − c} (v − b) where r is flat.
        noise = (goals - target.base_velocity(noisy)).mean(0)
        centring = 2 * (velocity * noise).flatten(1).double().mean(1)
        return attrs.evolve(loss, values=loss.values + row_weights.double() * centring)
