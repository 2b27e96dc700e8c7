"""Bounds on the noise level σ² of a path, which is infinite at t = 0."""

from __future__ import annotations

from torch import Tensor

from align.core.path import Path


def clamped_half_variance(path: Path, t: Tensor, clamp: float) -> Tensor:
    """σ_c²/2 = min(σ_t²/2, clamp), (B,); finite at t = 0 for a finite clamp."""
    return path.half_variance(t).clamp(max=clamp)


def guidance_clamp(path: Path, t: Tensor, clamp: float) -> Tensor:
    """min(1, clamp / (σ_t²/2)), (B,): σ_c²/σ_t², and what published code multiplies guidance by."""
    return (clamp / path.half_variance(t)).clamp(max=1.0)
