"""How much each row of a training loss counts."""

from __future__ import annotations

from typing import final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.core.option import above, at_least, option


@final
@attrs.frozen(kw_only=True)
class Weighting:
    """w(Δ) ‖Δ‖², w(Δ) = 1 / (‖Δ‖² + c)^p without gradient; then, if asked, e^{−ω} L + ω.

    With p = 1 the loss is about the logarithm of ‖Δ‖². ω(s, u, t) is a small network trained beside
    the map, which learns the logarithm of the loss at those times.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 73; Analyzing and
    Improving the Training Dynamics of Diffusion Models, Karras et al., 2023, arXiv:2312.02696, Eq.
    14 and 15 (learned weights).
    """

    diagonal: float = option("p on the diagonal; 0 is none", default=0.0, check=at_least(0))
    consistency: float = option("p off the diagonal; 0 is none", default=0.0, check=at_least(0))
    floor: float = option("c", default=0.01, check=above(0))
    learned: bool = option("whether ω is learnt beside the map", default=False)

    def losses(
        self, square: Tensor, alone: Tensor, times: Tensor, learnt: nn.Module | None
    ) -> Tensor:
        """Losses (B,) of ‖Δ‖² (B,); `alone` (B,) marks rows on the diagonal, times are (B, 3)."""
        power = torch.where(alone, self.diagonal, self.consistency).to(square)
        losses = square / (square.detach() + self.floor) ** power
        if learnt is None:
            return losses
        level: Tensor = learnt(times)
        return torch.exp(-level) * losses + level


@final
class LogLossNet(nn.Module):
    """ω(s, u, t), the logarithm of the loss to be expected at these times; from −10 to 10."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3 * 8, width), nn.Linear(width, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, times: Tensor) -> Tensor:
        """ω (B,) at times (B, 3)."""
        angles = times[..., None] * torch.tensor([0.5, 1.0, 2.0, 4.0]).to(times)
        waves = torch.cat((angles.cos(), angles.sin()), -1).flatten(1)
        level: Tensor = self.leave(F.silu(self.enter(waves)))[:, 0]
        return level.clamp(-10, 10)
