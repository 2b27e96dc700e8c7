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

    Jumps: a sorted pair of independent times. The curriculum is written in shares of all steps:
    before `straight` every row is on the diagonal, from there to `grown` the longest jump grows
    from 0 to 1; before `context_from` every context is empty (t = 0).

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, appendix on training;
    logit-normal pairs as in Decoupled MeanFlow, Lee et al., 2025, arXiv:2510.24474.
    """

    diagonal_share: float = option(
        "share of rows on the diagonal", default=0.5, check=between(0, 1)
    )
    time_distribution: Literal["uniform", "logit_normal"] = option(
        "of a jump's two times", default="uniform"
    )
    means: tuple[float, float] = option(
        "means of the two times' logits, if they are logit-normal", default=(-0.4, 1.2)
    )
    deviation: float = option("deviation of those logits", default=1.0, check=above(0))
    full_jump_share: float = option(
        "share of jumps that go all the way from 0 to 1", default=0.0, check=between(0, 1)
    )
    context_power: float = option("context times are t = U^power", default=2.0, check=at_least(0))
    context_zero: float = option(
        "share of rows without a context", default=0.1, check=between(0, 1)
    )
    diagonal_until: float = option(
        "share of steps with no jumps at all", default=0.0, check=between(0, 1)
    )
    full_length_at: float = option(
        "share of steps after which jumps have any length", default=0.0, check=between(0, 1)
    )
    context_start: float = option(
        "share of steps without any context", default=0.0, check=between(0, 1)
    )

    def context(self, rows: Streams, done: float) -> Tensor:
        """Context times t (B,) when a share `done` of all steps is done."""
        t = rows.fold_in("t").uniform(()) ** self.context_power
        empty = rows.fold_in("zero").uniform(()) < self.context_zero
        # Times of exactly 1 leave nothing to learn and divide by zero.
        return torch.where(empty | (done < self.context_start), 0.0, t).clamp(max=1 - 1e-3)

    def jumps(self, rows: Streams, done: float) -> tuple[Tensor, Tensor, Tensor]:
        """Inner times s (B,) and u (B,), and which rows are on the diagonal (B,): there s = u."""
        # Spread evenly over all rows of training, so that every piece of a batch has its share.
        numbers = torch.tensor(rows.samples, dtype=torch.float64, device=rows.device)
        alone = ((numbers + 1) * self.diagonal_share).floor() > (
            numbers * self.diagonal_share
        ).floor()
        longest = (done - self.diagonal_until) / max(
            self.full_length_at - self.diagonal_until, 1e-9
        )
        alone = alone | (longest <= 0 and self.diagonal_until > 0)
        s, u = self._pair(rows).sort(1).values.T
        whole = rows.fold_in("whole").uniform(()) < self.full_jump_share
        s, u = torch.where(whole, 0.0, s), torch.where(whole, 1.0, u)
        if self.full_length_at > 0:
            u = torch.minimum(u, s + max(longest, 0.0))
        s = torch.where(alone, rows.fold_in("s").uniform(()), s)
        return s, torch.where(alone, s, u), alone

    def _pair(self, rows: Streams) -> Tensor:
        if self.time_distribution == "uniform":
            return rows.fold_in("inner times").uniform((2,))
        logits = rows.fold_in("inner times").normal((2,))
        means = torch.tensor(self.means, dtype=logits.dtype, device=logits.device)
        return torch.sigmoid(means + self.deviation * logits)
