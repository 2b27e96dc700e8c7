"""How near a picture is to a known one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, final

import attrs
import torch
from torch import Tensor

from align.core.model import Domain
from align.core.option import option
from align.core.reward import Repeatable, Reward, RewardSpec
from align.rewards.known import Known, known

_LIMIT: Final = 100.0  # far above what 8 bits can tell apart, and finite


@final
@attrs.frozen(kw_only=True)
class PSNR(RewardSpec, Repeatable):
    """How near samples are to a known picture, in dB.

    Peak signal-to-noise ratio to a known picture, −10 log10 of the mean squared error, in dB.

    Samples are clamped to [0, 1] first; a ratio above 100 dB counts as 100.
    """

    kind: ClassVar[str] = "psnr"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (0.0, _LIMIT)

    picture: str = option(
        "PNG of the known picture, of the size that the model makes", path="required"
    )

    def build(self, device: torch.device) -> Reward:
        """Read the picture; raises PartError when it cannot be read."""
        return _PSNR(known(self.picture, device))


@final
@attrs.frozen(eq=False)
class _PSNR(Reward):
    known: Known

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Decibels (B,) of pictures (B, C, H, W) in [0, 1]."""
        pictures = self.known.view(data).clamp(0, 1)
        error = (pictures - self.known.picture.to(pictures)).square().flatten(1).mean(1)
        return -10 * error.clamp(min=10 ** (-_LIMIT / 10)).log10()
