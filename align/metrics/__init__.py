"""Metrics, and the network that most of them are quoted with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.catalog.hookspecs import hookimpl

if TYPE_CHECKING:
    from align.core.features import FeatureNetwork
    from align.core.metric import Metric


@hookimpl
def align_metrics() -> list[type[Metric]]:
    """Metrics."""
    from align.metrics.classes import ClassHistogram, InceptionScore
    from align.metrics.fid import FID, SpatialFID
    from align.metrics.frechet import FrechetThumbnails
    from align.metrics.mmd import KID, MMD
    from align.metrics.neighbours import DensityCoverage, PrecisionRecall
    from align.metrics.sliced_wasserstein import SlicedWasserstein
    from align.metrics.statistics import ImageStatistics
    from align.metrics.variety import Vendi

    return [
        FID,
        KID,
        MMD,
        ClassHistogram,
        DensityCoverage,
        FrechetThumbnails,
        ImageStatistics,
        InceptionScore,
        PrecisionRecall,
        SlicedWasserstein,
        SpatialFID,
        Vendi,
    ]


@hookimpl
def align_features() -> list[type[FeatureNetwork]]:
    """Feature networks."""
    from align.metrics.inception import Inception

    return [Inception]
