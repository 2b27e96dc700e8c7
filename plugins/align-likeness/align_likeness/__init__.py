"""Likeness to a given picture, as rewards and as metrics: by DINOv2, LPIPS and DreamSim."""

from __future__ import annotations

from align import Metric, RewardSpec, hookimpl
from align_likeness.parts import (
    DinoLikeness,
    DinoLikenessMetric,
    DreamSim,
    DreamSimMetric,
    Lpips,
    LpipsMetric,
)

__all__ = [
    "DinoLikeness",
    "DinoLikenessMetric",
    "DreamSim",
    "DreamSimMetric",
    "Lpips",
    "LpipsMetric",
    "align_metrics",
    "align_rewards",
]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """How like a given picture a sample is."""
    return [DinoLikeness, DreamSim, Lpips]


@hookimpl
def align_metrics() -> list[type[Metric]]:
    """How like a given picture samples are on average."""
    return [DinoLikenessMetric, DreamSimMetric, LpipsMetric]
