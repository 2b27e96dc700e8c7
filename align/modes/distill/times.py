"""The times that a map is trained at."""

from __future__ import annotations

from typing import Literal, final

import attrs
import torch
from torch import Tensor

from align.core.option import above, at_least, between, option
from align.core.streams import Streams


@final
@attrs.frozen(kw_only=True)
class Times:
    """Laws of the context time t and of a jump's inner times s <= u.

    A jump's times are a sorted pair of independent times. The curriculum is given in shares of all
    steps. Before `diagonal_until` every row is on the diagonal; from there to `full_length_at` the
    longest jump grows from 0 to 1. Before `context_start` every context is empty (t = 0).

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, appendix on training;
    logit-normal pairs as in Decoupled MeanFlow, Lee et al., 2025, arXiv:2510.24474.
    """

    diagonal_share: float = option(
        "share of rows on the diagonal", default=0.5, check=between(0, 1)
    )
    time_distribution: Literal["uniform", "logit_normal"] = option(
        "distribution of a jump's two times before they are sorted", default="uniform"
    )
    means: tuple[float, float] = option(
        "means of the logits of the two times, where they are logit-normal", default=(-0.4, 1.2)
    )
    deviation: float = option(
        "standard deviation of the logits of the two times, where they are logit-normal",
        default=1.0,
        check=above(0),
    )
    full_jump_share: float = option(
        "share of jumps that go all the way from 0 to 1", default=0.0, check=between(0, 1)
    )
    context_power: float = option(
        "power p of context times t = U^p with U uniform", default=2.0, check=at_least(0)
    )
    context_zero: float = option(
        "share of rows whose context is empty, t = 0", default=0.1, check=between(0, 1)
    )
    diagonal_until: float = option(
        "share of all steps at the start in which every row is on the diagonal",
        default=0.0,
        check=between(0, 1),
    )
    full_length_at: float = option(
        "share of all steps after which jumps may have any length", default=0.0, check=between(0, 1)
    )
    context_start: float = option(
        "share of all steps at the start in which every context is empty",
        default=0.0,
        check=between(0, 1),
    )

    def context(self, rows: Streams, progress: float) -> Tensor:
        """Context times t (B,) after a share `progress` of all steps."""
        t = rows.fold_in("t").uniform(()) ** self.context_power
        empty = rows.fold_in("zero").uniform(()) < self.context_zero
        # Times of exactly 1 leave nothing to learn and divide by zero.
        return torch.where(empty | (progress < self.context_start), 0.0, t).clamp(max=1 - 1e-3)

    def jumps(self, rows: Streams, progress: float) -> tuple[Tensor, Tensor, Tensor]:
        """Inner times s (B,) and u (B,), and which rows are on the diagonal (B,): there s = u."""
        # Spread evenly over all rows of training, so that every piece of a batch has its part.
        numbers = torch.tensor(rows.samples, dtype=torch.float64, device=rows.device)
        on_diagonal = ((numbers + 1) * self.diagonal_share).floor() > (
            numbers * self.diagonal_share
        ).floor()
        longest = (progress - self.diagonal_until) / max(
            self.full_length_at - self.diagonal_until, 1e-9
        )
        on_diagonal = on_diagonal | (longest <= 0 and self.diagonal_until > 0)
        s, u = self._pair(rows).sort(1).values.T
        full_jump = rows.fold_in("whole").uniform(()) < self.full_jump_share
        s, u = torch.where(full_jump, 0.0, s), torch.where(full_jump, 1.0, u)
        if self.full_length_at > 0:
            u = torch.minimum(u, s + max(longest, 0.0))
        s = torch.where(on_diagonal, rows.fold_in("s").uniform(()), s)
        return s, torch.where(on_diagonal, s, u), on_diagonal

    def _pair(self, rows: Streams) -> Tensor:
        if self.time_distribution == "uniform":
            return rows.fold_in("inner times").uniform((2,))
        logits = rows.fold_in("inner times").normal((2,))
        means = torch.tensor(self.means, dtype=logits.dtype, device=logits.device)
        return torch.sigmoid(means + self.deviation * logits)
