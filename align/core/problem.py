"""The frozen bundle that every step is handed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, final

import attrs
from torch import Tensor

from align.core.chunks import Chunks, chunks_of
from align.core.estimate import Estimate
from align.core.model import Condition, FlowModel, ModelSpec, NoisyState
from align.core.reward import WeightedReward
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams


class Estimator(Protocol):
    """What a problem asks of its estimator; the contract of the part is `ValueEstimator`."""

    @property
    def needs_sampler(self) -> bool:
        """Whether it draws from the posterior."""

    def estimate(self, problem: Problem, noisy: NoisyState, *, streams: Streams) -> Estimate:
        """Value and shift at the states of `noisy`."""


@final
@attrs.frozen(eq=False)
class Problem:
    """A model, what its samples should score high on, and how that is found out.

    A mode may rely on the parts that its `needs` name; the others may be None. Row b of `cond` is
    what the sample in row b of the streams is conditioned on. `chunks` cut what follows a gradient,
    and `chunks.cap` is the most rows that go through a loop together. `prompts` are all that `cond`
    may have, in turn: sample i has number i modulo their count. `part` is what the model was built
    from, which a weights file names; None for a model that was built by hand. `particles` are the
    states that stand for one sample, so that rows of `cond` are particle-major.
    """

    model: FlowModel
    reward: WeightedReward = attrs.field(factory=lambda: WeightedReward(()))
    sampler: PosteriorSampler | None = None
    estimator: Estimator | None = None
    cond: Condition = attrs.field(factory=lambda: Condition(()))
    chunks: Chunks = attrs.field(factory=Chunks, converter=chunks_of)
    prompts: tuple[str, ...] = ("",)
    part: ModelSpec | None = None
    particles: int = 1

    def condition(self, samples: Sequence[int]) -> Condition:
        """What samples of these numbers are conditioned on."""
        return self.model.encode([self.prompts[number % len(self.prompts)] for number in samples])

    def reward_of(self, draws: Tensor, cond: Condition) -> Tensor:
        """r (N, B) of draws (N, B, *S): decoded and scored, the graph kept.

        Where nothing is optimised it is 0. Nothing is decoded for rewards that score states. Those
        that compare do so among all draws of a sample, whichever of its particles they are of.
        """
        count = len(draws)
        if not self.reward.optimised:
            return draws.new_zeros(draws.shape[:2])
        x1 = draws.flatten(0, 1)
        data = self.model.decode(x1) if self.reward.needs_data else x1
        total = self.reward.total(data, cond.tile(count).prompts, x1)
        total = total.reshape(count, -1)
        if self.reward.compares:
            groups = (count * self.particles, -1)
            prompts = cond.prompts[: len(cond) // self.particles]
            relative = self.reward.compared(
                data.unflatten(0, groups), prompts, x1.unflatten(0, groups)
            )
            total = total + relative.reshape(count, -1)
        return total
