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

    With p = 1 the loss is about the logarithm of ‖Δ‖². With `learned = true` a small network
    ω(s, u, t) is trained beside the map; it learns the logarithm of the loss at those times.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 73; Analyzing and
    Improving the Training Dynamics of Diffusion Models, Karras et al., 2023, arXiv:2312.02696, Eq.
    14 and 15 (learned weights).
    """

    diagonal: float = option(
        "power p on the diagonal; 0 for no weighting", default=0.0, check=at_least(0)
    )
    consistency: float = option(
        "power p off the diagonal; 0 for no weighting", default=0.0, check=at_least(0)
    )
    floor: float = option(
        "constant c that keeps weights finite where ‖Δ‖² is 0", default=0.01, check=above(0)
    )
    learned: bool = option(
        "whether a network ω of the times is trained beside the map to weigh rows", default=False
    )

    def losses(
        self, square: Tensor, on_diagonal: Tensor, times: Tensor, log_loss_net: nn.Module | None
    ) -> Tensor:
        """Losses (B,) of squares ‖Δ‖² (B,).

        Args:
            square: ‖Δ‖², (B,).
            on_diagonal: which rows are on the diagonal, (B,).
            times: s, u and t of each row, (B, 3).
            log_loss_net: the network ω, where it is learnt.
        """
        power = torch.where(on_diagonal, self.diagonal, self.consistency).to(square)
        losses = square / (square.detach() + self.floor) ** power
        if log_loss_net is None:
            return losses
        log_loss: Tensor = log_loss_net(times)
        return torch.exp(-log_loss) * losses + log_loss


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
        log_loss: Tensor = self.leave(F.silu(self.enter(waves)))[:, 0]
        return log_loss.clamp(-10, 10)
