"""Distances between two sets of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from align.metrics.sliced_wasserstein import sliced_w2

__all__ = ["masses", "sliced_w2", "w1"]


def w1(a: Tensor, b: Tensor) -> float:
    """Wasserstein-1 distance on the line, W₁ = ∫ |F_a − F_b| dx, of samples (N,) and (M,)."""
    places = torch.cat((a, b)).sort().values
    below_a = torch.searchsorted(a.sort().values, places[:-1], right=True).double() / len(a)
    below_b = torch.searchsorted(b.sort().values, places[:-1], right=True).double() / len(b)
    return float(((below_a - below_b).abs() * places.diff()).sum())


def masses(samples: Tensor, centres: Tensor) -> Tensor:
    """Share of the samples (N, D) that lies nearest to each of the centres (M, D): (M,)."""
    nearest = torch.cdist(samples, centres).argmin(1)
    return torch.bincount(nearest, minlength=len(centres)).double() / len(samples)
