"""Metrics that need no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.catalog.hookspecs import hookimpl

if TYPE_CHECKING:
    from align.core.metric import Metric


@hookimpl
def align_metrics() -> list[type[Metric]]:
    """Metrics."""
    from align.metrics.frechet import FrechetThumbnails
    from align.metrics.sliced_wasserstein import SlicedWasserstein
    from align.metrics.statistics import ImageStatistics

    return [FrechetThumbnails, ImageStatistics, SlicedWasserstein]
