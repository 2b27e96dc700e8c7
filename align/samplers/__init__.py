"""Posterior samplers: one algorithm, one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.catalog.hookspecs import hookimpl

if TYPE_CHECKING:
    from align.core.sampler import PosteriorSampler


@hookimpl
def align_samplers() -> list[type[PosteriorSampler]]:
    """Posterior samplers."""
    from align.samplers.dps import DPS
    from align.samplers.exact import ExactPosterior
    from align.samplers.gaussian import GaussianPosterior
    from align.samplers.glass import Glass
    from align.samplers.look_ahead import LookAhead
    from align.samplers.mfm import MetaFlowMap
    from align.samplers.renoise import Renoise

    return [DPS, ExactPosterior, GaussianPosterior, Glass, LookAhead, MetaFlowMap, Renoise]
