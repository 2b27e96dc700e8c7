"""What objectives have in common that regress on clean samples by their advantage."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import attrs
from torch import Tensor

from align.core.objective import Loss
from align.core.option import between, option
from align.core.streams import Streams
from align.modes.finetune.objective import FinetuneObjective
from align.modes.finetune.target import TiltedTarget


@attrs.frozen(kw_only=True)
class AdvantageObjective(FinetuneObjective):
    """Makes clean states noisy, and regresses by how far their rewards lie above a prompt's mean.

    Rows count 1 / (1 + c_t²), which compares clean states. No posterior draws, no e^r.
    """

    needs_gradient: ClassVar[bool] = False
    needs_sampler: ClassVar[bool] = False
    weighs: ClassVar[bool] = False
    takes_level: ClassVar[bool] = True

    start: float = option("earliest time that is trained", default=0.0, check=between(0, 0.99))

    @abstractmethod
    def values(self, advantage: Tensor, velocity: Tensor, base: Tensor, goal: Tensor) -> Tensor:
        """The loss of each row, (b,), before rows are weighed.

        Args:
            advantage: r(x1) less the mean reward of its prompt, (b,), in float64.
            velocity: of the student, (b, *S).
            base: the base model's, (b, *S).
            goal: the one that leads from the noisy state to x1, (b, *S).
        """

    def level(self, rewards: Tensor) -> Tensor:
        """The mean of rewards r (n,)."""
        return rewards.mean(0)

    def loss(self, target: TiltedTarget, rows: Streams) -> Loss:
        """The regression, in the scale of a velocity's."""
        (noisy, x1), path = target.noisy(rows, self.start), target.student.path
        draws = target.clean_draw(noisy, x1)
        rewards = draws.rewards[0]
        level = target.log_normalizer[target.prompt_numbers(noisy)]
        values = self.values(
            rewards.double() - level,
            target.velocity(noisy),
            target.base_velocity(noisy),
            path.velocity_from_denoiser(draws.x1[0], noisy.x, noisy.t),
        )
        row_weights = 1 / (1 + path.denoiser_to_velocity(noisy.t).double().square())
        return Loss(row_weights * values, {"reward": rewards.detach()})


def mean_square(difference: Tensor) -> Tensor:
    """Of each row of differences (b, *S), (b,), in float64."""
    return difference.flatten(1).double().square().mean(1)
