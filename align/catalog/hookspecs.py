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
    """Models that a recipe may name: specifications whose `build(device)` loads weights.

    A network in a file needs no plugin: `kind = "torch"` takes it. A model may do more than its
    velocity: `ToData`, `FlowMap`, `PosteriorMap`, `DataSampler`, `ClosedForm`, `ClassConditional`,
    `EncodesPictures` (data may be pictures), `TokenGrid` (its states are tokens, which networks
    that learn from it see as pictures), `TrainableVelocity` (its own module can be fine-tuned) and
    `DescribesConditions` (what networks that learn from it are given of a prompt) are capabilities,
    base classes beside `FlowModel`. A sampler or a mode asks for one by
    `model.capability(FlowMap)`, which is None where the model cannot do that, and not by
    `isinstance`: in a run every model stands behind a guard that counts its calls. A model that
    wraps another one answers for it by overriding `capability`. A specification that knows the
    names of its classes has them as `known_classes`, so that `align check` refuses a prompt that
    names none.
    """
    return ()


@hookspec
def align_samplers() -> Iterable[type[PosteriorSampler]]:
    """Posterior samplers that a recipe may name: clean data given a noisy state."""
    return ()


@hookspec
def align_estimators() -> Iterable[type[ValueEstimator]]:
    """Value estimators that a recipe may name: how good a state is, and where the reward moves it.

    One that follows a gradient of its own lets `problem.chunks.cut(name, rows, call)` call it for
    some rows at a time: as many as memory has room for.
    """
    return ()


@hookspec
def align_dynamics() -> Iterable[type[Dynamics]]:
    """Dynamics that a recipe may name: one step of a guided flow, to the next state."""
    return ()


@hookspec
def align_rewards() -> Iterable[type[RewardSpec]]:
    """Rewards that a recipe may name: specifications whose `build(device)` loads weights.

    `reward.capability(Quadratic)` asks for what some rewards can do. A reward that a service
    computes says so by `external = True`: `align plan` then calls it with nothing, and tables show
    its calls and seconds. `price_per_score` is the money that a score costs. With
    `may_miss = True` a score may be missing, which is NaN: such a reward can only be held out.
    """
    return ()


@hookspec
def align_modes() -> Iterable[type[AlignmentMode[Any]]]:
    """Modes that a recipe may name: what a run does."""
    return ()


@hookspec
def align_metrics() -> Iterable[type[Metric]]:
    """Metrics that a recipe may name: numbers about a set of samples.

    A `StreamedMetric` keeps of samples what adds up, so that 50,000 pictures are never in memory
    together; of other metrics the samples themselves are kept. `prepare(device)` loads weights
    before the first sample is made.
    """
    return ()


@hookspec
def align_features() -> Iterable[type[FeatureNetwork]]:
    """Feature networks that metrics may name in their option `features`.

    `build(device)` loads the weights; `extract(pictures)` makes pooled features, and spatial ones
    and logits where `has_spatial` and `has_logits` say so.
    """
    return ()


@hookspec
def align_networks() -> Iterable[type[NetworkSpec]]:
    """Networks of velocities that a recipe may name, for `pretrain`, `distill` and `finetune`.

    `build(shape, classes, role)` makes an untrained network.
    """
    return ()


@hookspec
def align_autoencoders() -> Iterable[type[AutoencoderSpec]]:
    """Autoencoders that a recipe may name, for `autoencode`.

    `layers()` makes an untrained encoder and decoder.
    """
    return ()


@hookspec
def align_datasets() -> Iterable[type[DatasetSpec]]:
    """Data sets that a recipe may name: specifications whose `open(colours)` finds rows."""
    return ()


@hookspec
def align_objectives() -> Iterable[type[Objective]]:
    """Objectives that the table of a training mode may name.

    They are fine-tuning losses (`FinetuneObjective`), consistency losses (`ConsistencyLoss`) and
    targets on the diagonal (`DiagonalTarget`). An option of a training mode takes the kinds of one
    of these classes alone.
    """
    return ()


@hookspec
def align_trackers() -> Iterable[type[Tracker]]:
    """Trackers that `run.trackers` may name: they keep numbers and pictures of runs elsewhere.

    A tracker that raises something in a run is left out from there on; a line says so, and the run
    goes on.
    """
    return ()


@hookspec
def align_executors() -> Iterable[type[Executor]]:
    """Executors that `run.on` may name: which processes make the blocks of a run.

    `run(job, tasks, watch)` has each task done by `performed(job, task)` in some process, reports
    it by `watch.done(task)`, and calls `watch.check()` several times a second, which raises where
    the user asks the run to stop.
    """
    return ()


@hookspec
def align_run_start(run: Any) -> None:
    """A run begins: its recipe is read and its folder is there, nothing is computed yet.

    @hookimpl
    def align_run_start(run):
        tracker.begin(str(run.folder))
    """


@hookspec
def align_step(run: Any, index: int, state: Any, info: Info) -> None:
    """Step number `index`, counted from 0, is done.

    `info.numbers` are plain floats; `info.pictures` may be None.

        @hookimpl
        def align_step(index, info):
            tracker.log(index, dict(info.numbers))
    """


@hookspec
def align_run_end(run: Any, result: Any, error: BaseException | None) -> None:
    """A run is over: with a result, or with the error that ended it.

    @hookimpl
    def align_run_end(error):
        tracker.close(failed=error is not None)
    """
