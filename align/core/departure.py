"""Whether samples have left the model: their length and velocity residual beside base samples'.

A sample of the model, made noisy again, is explained by the model's velocity as well as samples of
the base model are. One that a reward has dragged away is not, however high its score.
"""

from __future__ import annotations

import math
from typing import Final, Self, final

import attrs
import torch
from torch import Tensor

from align.core.errors import AlignError
from align.core.model import Condition, FlowModel
from align.core.path import times_of
from align.core.streams import Streams

_RATIOS: Final = (0.25, 0.05)  # α/β of the times at which a sample is asked about
_FEWEST: Final = 32  # base samples, fewer of which say nothing of what is usual
_MANY: Final = 0.1  # share of samples that must be far off


@final
@attrs.frozen(eq=False)
class Traits:
    """Two numbers of each of B samples.

    Attributes:
        norm: ‖x1‖ (B,), float64.
        residual: mean square of b_t(I_t) − İ_t over the elements of a sample, the loss of flow
            matching, averaged over two times near the data, with one noise each; (B,), float64.
    """

    norm: Tensor
    residual: Tensor

    @classmethod
    def of(cls, model: FlowModel, x1: Tensor, cond: Condition, streams: Streams) -> Self:
        """Of clean states x1 (B, *S); costs two velocities a sample.

        Where the model has no finite velocity at all any more, the residual is infinite.

        Reference: Flow Matching for Generative Modeling, Lipman et al., 2023, arXiv:2210.02747,
        Eq. 9 (the loss).
        """
        norm = x1.double().flatten(1).norm(dim=1)
        try:
            squares = [_squares(model, x1, cond, streams, k) for k in range(len(_RATIOS))]
        except AlignError:
            return cls(norm, torch.full_like(norm, math.inf))
        return cls(norm, torch.stack(squares).mean(0))

    @classmethod
    def joined(cls, pieces: list[Self]) -> Self:
        """Those of several sets of samples, one after the other."""
        return cls(
            torch.cat([piece.norm for piece in pieces]),
            torch.cat([piece.residual for piece in pieces]),
        )


@final
@attrs.frozen(kw_only=True)
class Departure:
    """Samples of an arm beside samples of its base model.

    Attributes:
        norm: median of ‖x1‖, in units of the base samples' median.
        longest: the largest ‖x1‖, in the same units.
        residual: median of the velocity residual, in units of the base samples' median.
        left: share of the samples that are so far off, in either number, as no base sample is.
    """

    norm: float
    residual: float
    left: float = 0.0
    longest: float = 0.0

    @classmethod
    def of(cls, samples: Traits, base: Traits) -> Self | None:
        """The comparison; None where base samples are too few.

        A sample is far off where its number is as far above all base samples' as the highest of
        these is above their median, in logarithms; or its norm as far below them, in plain numbers,
        since few numbers may well be near 0, and many not. All that are above all base samples
        count where they are more than half, two at least: that does not happen by chance.
        """
        if len(base.norm) < _FEWEST:
            return None
        off = samples.norm.cpu() < 2 * base.norm.cpu().min() - base.norm.cpu().median()
        ratios = list[float]()
        for values, usual in ((samples.norm, base.norm), (samples.residual, base.residual)):
            log, known = (v.cpu().clamp(1e-30, 1e30).log() for v in (values, usual))
            middle, highest = known.median(), known.max()
            ratios.append(math.exp(float(log.median() - middle)))
            above = log > highest
            most = int(above.sum()) >= 2 and 2 * int(above.sum()) > len(above)
            off |= above if most else log > 2 * highest - middle
        longest = float(samples.norm.max() / base.norm.median().clamp(min=1e-30))
        return cls(
            norm=ratios[0],
            residual=ratios[1],
            left=float(off.double().mean()),
            longest=min(longest, 1e30),
        )

    def note(self, samples: int) -> str | None:
        """What must be said of so many samples; None where there is nothing."""
        if self.left < _MANY:
            return None
        return (
            f"{round(self.left * samples)} of {samples} samples leave the model: no unsteered"
            f" sample is so far off (velocity residual {_times(self.residual)}, length"
            f" {_times(self.norm)} that of unsteered samples, in the median; length up to"
            f" {_times(self.longest)}). Their rewards are those of samples that the model does not"
            " make: lower the weights, take more steps, or another sampler."
        )


def _squares(model: FlowModel, x1: Tensor, cond: Condition, streams: Streams, k: int) -> Tensor:
    """(b_t(I_t) − İ_t)², the mean over a sample's elements (B,), at the k-th of the times."""
    path, noise = model.path, streams.fold_in("residual", k).normal(model.shape).to(x1)
    t = times_of(x1, path.time_at(torch.tensor(_RATIOS[k]).double().square()))
    velocity = model.velocity(path.interpolate(noise, x1, t), t, cond)
    return (velocity - path.rate(noise, x1, t)).double().square().flatten(1).mean(1)


def _times(ratio: float) -> str:
    return f"{ratio:.2g} times" if ratio < 1e6 else "a million times and more"
