"""The frozen bundle that every step is handed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import attrs
from torch import Tensor

from align.core.model import Condition, FlowModel
from align.core.reward import WeightedReward
from align.core.sampler import PosteriorSampler

if TYPE_CHECKING:
    from align.core.estimator import ValueEstimator


@final
@attrs.frozen(eq=False)
class Problem:
    """A model, what its samples should score high on, and how that is found out.

    A mode may rely on the parts that its `needs` name; the others may be None. Row b of `cond` is
    what the sample in row b of the streams is conditioned on. At most `chunk` rows are in memory
    at once with what a gradient needs. `prompts` are all that `cond` may have, in turn: sample i
    has number i modulo their count. `earlier` is for studies: see `Study`.
    """

    model: FlowModel
    reward: WeightedReward = attrs.field(factory=lambda: WeightedReward(()))
    sampler: PosteriorSampler | None = None
    estimator: ValueEstimator | None = None
    cond: Condition = attrs.field(factory=lambda: Condition(()))
    chunk: int = 1 << 20
    prompts: tuple[str, ...] = ("",)
    earlier: object = None

    def condition(self, samples: Sequence[int]) -> Condition:
        """What samples of these numbers are conditioned on."""
        return self.model.encode([self.prompts[number % len(self.prompts)] for number in samples])

    def reward_of(self, draws: Tensor, cond: Condition) -> Tensor:
        """r (N, B) of draws (N, B, *S): decoded and scored, the graph kept."""
        count = len(draws)
        data = self.model.decode(draws.flatten(0, 1))
        total = self.reward.total(data, cond.tile(count).prompts)
        return total.reshape(count, -1)
