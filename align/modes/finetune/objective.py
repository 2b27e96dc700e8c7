"""What fine-tuning losses are, and the regression that most of them are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from align.core.draws import Draws
from align.core.model import NoisyState
from align.core.streams import Streams
from align.modes.finetune.target import TiltedTarget


@attrs.frozen(kw_only=True)
class FineTuning(ABC):
    """A loss whose minimum is the velocity of the tilted law.

    Attributes:
        needs_gradient: whether it follows the gradient of the reward.
        weighs: whether rows count e^{r − c}; where not, c is neither found nor moved.
        unguided: whether the velocity without guidance is trained, whatever the model's guidance.
    """

    kind: ClassVar[str]
    needs_gradient: ClassVar[bool]
    weighs: ClassVar[bool]
    unguided: ClassVar[bool] = False

    @property
    @abstractmethod
    def needs_sampler(self) -> bool:
        """Whether it draws from the posterior."""

    @abstractmethod
    def losses(self, tilt: TiltedTarget, rows: Streams) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Losses (b,) of rows of training, and numbers (b,) for the record, by name.

        "reward" is the mean of r over a row's draws; "tilt k" is the mean of e^{r − c} over those
        of rows that have prompt k, by which its c is moved.
        """

    def first_log_normalizer(self, tilt: TiltedTarget, rows: Streams) -> Tensor:
        """log E e^r over draws that these rows of training would see, for each prompt (P,)."""
        noisy, x1 = tilt.noisy(rows, 0.01)
        own = rows.fold_in("draws")
        draws = tilt.draws(noisy, 1, False, own) if self.needs_sampler else tilt.own(noisy, x1)
        rewards, numbers = draws.rewards.double()[0], tilt.numbers(noisy)
        found = torch.empty_like(tilt.log_normalizer)
        for number in range(len(found)):
            asked = rewards[numbers == number]
            asked = asked if len(asked) else rewards
            found[number] = torch.logsumexp(asked, 0) - math.log(len(asked))
        return found


def regressed(
    tilt: TiltedTarget,
    noisy: NoisyState,
    draws: Draws,
    targets: Tensor,
    share: Tensor,
    *,
    weighs: bool = True,
) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
    """Losses w_t E_n e^{r_n − c} ‖b̂_t(x_t) − target_n‖², (b,); the velocity b̂; and what is told.

    The mean over draws is outside the exponential, so that one draw is enough for an unbiased
    gradient. Weights w_t = `share` (b,) of a time alone leave the minimum where it is. Where rows
    do not count e^{r − c}, `weighs` is false.
    """
    velocity = tilt.velocity(noisy)
    apart = (velocity - targets).flatten(2).double().square().mean(2)
    said = {"reward": draws.rewards.mean(0)}
    if weighs:
        numbers = tilt.numbers(noisy)
        weights = tilt.weights(draws, numbers)
        apart, each = weights * apart, weights.mean(0)
        said |= {f"tilt {k}": each[numbers == k] for k in numbers.unique().tolist()}
    return share.double() * apart.mean(0), velocity, said
