"""The likelihood of a noisy measurement of a known picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.model import Domain
from align.core.option import above, option
from align.core.reward import HasReferenceImages, Repeatable, Reward, RewardSpec
from align.core.streams import Streams
from align.rewards.known import Known, known
from align.rewards.operators import AnyOperator, Operator


@final
@attrs.frozen(kw_only=True)
class Measurement(RewardSpec, Repeatable):
    """A picture that was measured: blurred, cut or small.

    R(x) = −‖A x − y‖² / (2 std²), so that p e^R is the law of x given y = A x + N(0, std²).

    y = A x0 + std n with x0 the known picture and n ~ N(0, I), drawn once from `seed`. The sum is
    over what A sees: once a pixel where x0 is grey, once a pixel and channel where it is not.

    Reference: Diffusion Posterior Sampling for General Noisy Inverse Problems, Chung et al., 2022,
    arXiv:2209.14687, section 4.
    """

    kind: ClassVar[str] = "measurement"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (-math.inf, 0.0)

    picture: str = option(
        "PNG of the known picture x0, of the size that the model makes", path="required"
    )
    operator: AnyOperator = option("operator A: what the measurement sees of a picture")
    std: float = option("standard deviation of the measurement's noise; white is 1", check=above(0))
    seed: int = option(
        "seed of the measurement's noise; the run's seed does not change it", default=0
    )

    def build(self, device: torch.device) -> Reward:
        """Measure the picture; raises PartError when it cannot be read or seen."""
        x0 = known(self.picture, device)
        clean = self.operator.apply(x0.picture[None])[0]
        noise = Streams(self.seed, (0,), ("measurement",)).normal(tuple(clean.shape))[0]
        return _Measured(x0, self.operator, clean + self.std * noise.to(clean), self.std)


@final
@attrs.frozen(eq=False)
class _Measured(Reward, HasReferenceImages):
    known: Known
    operator: Operator
    observed: Tensor
    std: float

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """R (B,) of pictures (B, C, H, W) in [0, 1]."""
        measured = self.operator.apply(self.known.view(data))
        residual = (measured - self.observed.to(measured)) / self.std
        return -0.5 * residual.flatten(1).square().sum(1)

    def pictures(self) -> dict[str, Tensor]:
        """x0, and y as a picture."""
        height, width = self.known.picture.shape[-2:]
        shown = self.operator.show(self.observed, height, width)
        return {"known picture": self.known.picture, "measurement": shown}
