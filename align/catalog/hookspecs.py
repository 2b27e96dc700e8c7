"""The hooks: what a plugin may bring, and when it is told about a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from align.core.autoencoder import AutoencoderSpec
    from align.core.dataset import DatasetSpec
    from align.core.dynamics import Dynamics
    from align.core.estimator import ValueEstimator
    from align.core.executor import Executor
    from align.core.features import FeatureNetwork
    from align.core.metric import Metric
    from align.core.mode import AlignmentMode, Info
    from align.core.model import ModelSpec
    from align.core.network import NetworkSpec
    from align.core.objective import Objective
    from align.core.reward import RewardSpec
    from align.core.sampler import PosteriorSampler
    from align.core.tracker import Tracker

hookspec = pluggy.HookspecMarker("align")
hookimpl = pluggy.HookimplMarker("align")


@hookspec
def align_models() -> Iterable[type[ModelSpec]]:
    """Models that a recipe may name."""
    return ()


@hookspec
def align_samplers() -> Iterable[type[PosteriorSampler]]:
    """Posterior samplers that a recipe may name."""
    return ()


@hookspec
def align_estimators() -> Iterable[type[ValueEstimator]]:
    """Value estimators that a recipe may name."""
    return ()


@hookspec
def align_dynamics() -> Iterable[type[Dynamics]]:
    """Dynamics that a recipe may name."""
    return ()


@hookspec
def align_rewards() -> Iterable[type[RewardSpec]]:
    """Rewards that a recipe may name."""
    return ()


@hookspec
def align_modes() -> Iterable[type[AlignmentMode[Any]]]:
    """Modes that a recipe may name."""
    return ()


@hookspec
def align_metrics() -> Iterable[type[Metric]]:
    """Metrics that a recipe may name."""
    return ()


@hookspec
def align_features() -> Iterable[type[FeatureNetwork]]:
    """Feature networks that the table of a metric may name."""
    return ()


@hookspec
def align_networks() -> Iterable[type[NetworkSpec]]:
    """Networks of velocities that a recipe may name."""
    return ()


@hookspec
def align_autoencoders() -> Iterable[type[AutoencoderSpec]]:
    """Autoencoders that a recipe may name."""
    return ()


@hookspec
def align_datasets() -> Iterable[type[DatasetSpec]]:
    """Data sets that a recipe may name."""
    return ()


@hookspec
def align_objectives() -> Iterable[type[Objective]]:
    """Objectives that the table of a training mode may name."""
    return ()


@hookspec
def align_trackers() -> Iterable[type[Tracker]]:
    """Trackers that a recipe may name, which keep numbers and pictures of runs."""
    return ()


@hookspec
def align_executors() -> Iterable[type[Executor]]:
    """Executors that a recipe may name, which have the blocks of a run made."""
    return ()


@hookspec
def align_run_start(run: Any) -> None:
    """A run begins; its parts are built, nothing is computed yet."""


@hookspec
def align_step(run: Any, index: int, state: Any, info: Info) -> None:
    """Step number `index`, counted from 0, is done."""


@hookspec
def align_run_end(run: Any, result: Any, error: BaseException | None) -> None:
    """A run is over: with a result, or with the error that ended it."""
