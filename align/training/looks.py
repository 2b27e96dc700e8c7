"""What a training shows of itself on the way: pictures with captions, or points in the plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

POINTS: Final = 512
"""Points of a cloud that is shown."""

_SIDE: Final = 192  # pixels of a plot
_ROOM: Final = 1.1  # times what the middle 99 % of the points take
_INK: Final = (0.8, 0.5, 0.2)  # of a point, in red, green and blue


@final
@attrs.frozen(eq=False)
class Looks:
    """Pictures (B, C, H, W) for the record, and what stands beneath each, if anything does."""

    pictures: Tensor
    captions: tuple[str, ...] = ()


@torch.no_grad()
def in_the_plane(clouds: Mapping[str, Tensor]) -> Looks | None:
    """A plot of each cloud of points (n, 2), under its name; None for points elsewhere.

    All have one square, which has the middle 99 % of all points along both axes. Others stand at
    its edge.
    """
    if any(points.dim() != 2 or points.shape[1] != 2 for points in clouds.values()):
        return None
    known = [points.detach().double().cpu().nan_to_num() for points in clouds.values()]
    low, high = torch.cat(known).quantile(torch.tensor([0.005, 0.995]).double(), dim=0)
    middle, side = (low + high) / 2, _ROOM * float((high - low).max()) or 1.0
    plots = [_plot((points - middle) / side + 0.5) for points in known]
    return Looks(torch.stack(plots), tuple(clouds))


def _plot(points: Tensor) -> Tensor:
    """A plot (3, side, side) of points (n, 2) in the unit square."""
    column, row = (points.clamp(0, 1) * (_SIDE - 1)).round().long().unbind(1)
    counts = torch.zeros(_SIDE * _SIDE)
    counts.index_add_(0, (_SIDE - 1 - row) * _SIDE + column, torch.ones(len(points)))
    wider = F.max_pool2d(counts.reshape(1, 1, _SIDE, _SIDE), 3, 1, 1)[0]
    return torch.exp(-torch.tensor(_INK)[:, None, None] * wider)
