"""Fine-tuning by the gradient of the reward at posterior draws."""

from __future__ import annotations

from typing import ClassVar, Final, final

import attrs
import torch

from align.core.draws import weighted_mean
from align.core.objective import Loss
from align.core.option import at_least, between, option
from align.core.path import expand
from align.core.streams import Streams
from align.modes.finetune.objective import FinetuneObjective, regression
from align.modes.finetune.target import TiltedTarget

RELEASED: Final = 100.0
"""σ²/2 at all times in the code published with Meta Flow Maps."""


@final
@attrs.frozen(kw_only=True)
class GradientObjective(FinetuneObjective):
    """finetune: the tilted law, by the reward's gradient.

    E e^{r − c} ‖b̂_t(x_t) − (b_t(x_t) + (σ_t²/2) ∇_{x_t} r)‖², r = r(x̂(x_t)), x̂ ~ p(x1 | x_t).

    The minimum is b + (σ²/2) E[∇e^r] / E[e^r] = b + (σ²/2) ∇V: linear in e^r and ∇e^r, so that
    one draw is enough, where the logarithm of a mean of few is biased. Its parameter gradient is
    that of the paper's loss, whose target is b − (e^r − 1)(b̂ − b) + (σ²/2) ∇e^r without gradient.
    Rows count 1 / (1 + (σ_t²/2)²), since σ_t grows without bound towards t = 0.

    `plug_in = true` regresses on b + (σ²/2) ∇ log Σ_n e^{r_n} instead, n the draws of the state.
    All states count alike, which is much less noise, and the minimum is that of E log Σ_n e^{r_n}:
    of the mean reward E r with one draw, and nearer to V the more there are.

    `as_released = true` follows the published code, not the paper's derivation: σ²/2 = 100 at all
    times, whose minimum is b + 100 ∇V, and the velocity without guidance is trained.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 43.
    """

    kind: ClassVar[str] = "gradient"
    needs_gradient: ClassVar[bool] = True
    needs_sampler: ClassVar[bool] = True

    draws: int = option("posterior draws at each state", default=1, check=at_least(1), grows="rows")
    start: float = option("earliest time that is trained", default=0.01, check=between(0, 0.99))
    plug_in: bool = option(
        "whether a state's draws are weighed among themselves: less noise, and a bias that falls"
        " with their number",
        default=False,
    )
    as_released: bool = option(
        "whether σ and guidance are those of the code published with the paper", default=False
    )

    @property
    def weighs(self) -> bool:
        """Whether rows count e^{r − c}: not where draws are weighed among themselves."""
        return not self.plug_in

    @property
    def unguided(self) -> bool:
        """Whether the velocity without guidance is trained, as by the published code."""
        return self.as_released

    def loss(self, target: TiltedTarget, rows: Streams) -> Loss:
        """The regression on b + (σ²/2) ∇r."""
        noisy, _ = target.noisy(rows, self.start)
        draws = target.draws(noisy, self.draws, True, rows.fold_in("draws"))
        assert draws.reward_grads is not None
        half = target.student.path.half_variance(noisy.t)
        if self.as_released:
            half = torch.full_like(half, RELEASED)
        reward_grads = draws.reward_grads
        if self.plug_in:
            reward_grads = weighted_mean(reward_grads, draws.weights)[None]
        goals = target.base_velocity(noisy) + expand(half, noisy.x) * reward_grads
        row_weights = 1 / (1 + half.square())
        _, loss = regression(target, noisy, draws, goals, row_weights, weighs=self.weighs)
        return loss
