"""Distances between two sets of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from align.core.streams import Streams


def w1(a: Tensor, b: Tensor) -> float:
    """Wasserstein-1 distance on the line, W₁ = ∫ |F_a − F_b| dx, of samples (N,) and (M,)."""
    places = torch.cat((a, b)).sort().values
    below_a = torch.searchsorted(a.sort().values, places[:-1], right=True).double() / len(a)
    below_b = torch.searchsorted(b.sort().values, places[:-1], right=True).double() / len(b)
    return float(((below_a - below_b).abs() * places.diff()).sum())


def sliced_w2(a: Tensor, b: Tensor, projections: int = 128, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance (mean over directions of W₂²)^½ of samples (N, D) and (M, D).

    The samples are projected on `projections` random directions; sets of unequal size are
    compared at N + M quantiles of equal weight.

    Reference: Sliced and Radon Wasserstein barycenters of measures, Bonneel, Rabin, Peyré,
    Pfister, 2015, doi:10.1007/s10851-014-0506-3, section 3.
    """
    streams = Streams(seed, tuple(range(projections))).at("directions")
    directions = streams.normal((a.shape[1],)).to(a)
    directions = directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    lines = [(points @ directions.T).sort(0).values for points in (a, b)]
    if len(a) != len(b):
        levels = (torch.arange(len(a) + len(b), device=a.device) + 0.5) / (len(a) + len(b))
        lines = [line[(levels * len(line)).long()] for line in lines]
    return float((lines[0] - lines[1]).square().mean().sqrt())


def masses(samples: Tensor, centres: Tensor) -> Tensor:
    """Share of the samples (N, D) that lies nearest to each of the centres (M, D): (M,)."""
    nearest = torch.cdist(samples, centres).argmin(1)
    return torch.bincount(nearest, minlength=len(centres)).double() / len(samples)
