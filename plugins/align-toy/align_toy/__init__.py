"""The reward 'toy' for `align`: how near a picture's brightness is to a wanted one.

`align list` imports this module whether or not a recipe names the reward. So it imports torch and
align, and nothing heavier; whatever else the reward needs, `build` imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align import Domain, Reward, RewardSpec, between, hookimpl, option


@final
@attrs.frozen(kw_only=True)
class Toy(RewardSpec):
    """Minus the squared distance of a picture's mean brightness from a wanted one."""

    kind: ClassVar[str] = "toy"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (-float("inf"), 0.0)

    # The keys of the reward's table in a recipe. `align show toy` prints them.
    wanted: float = option("mean brightness, from 0 to 1", default=0.8, check=between(0, 1))

    def build(self, device: torch.device) -> Reward:
        """Load weights here, onto `device`; raise align.errors.PartError if they cannot be used."""
        return _Scorer(self.wanted)


@final
@attrs.frozen
class _Scorer(Reward):
    wanted: float

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,) of pictures (B, 3, H, W) in [0, 1]; row i depends on row i alone."""
        return -(data.float().flatten(1).mean(1) - self.wanted).square()


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """The rewards of this distribution."""
    return [Toy]
