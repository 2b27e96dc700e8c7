"""The state of fine-tuning, and the model that it starts from."""

from __future__ import annotations

import copy
from typing import final

import attrs
import torch
from torch import Tensor, nn

from align.core.errors import OptionError
from align.core.mode import Info
from align.core.model import Condition, FlowModel, TrainableVelocity
from align.core.network import NetworkSpec, make_network
from align.core.path import path_name
from align.core.problem import Problem
from align.core.streams import Streams
from align.engine.guard import replaced
from align.models.network_model import NetworkModel, student_of
from align.modes.finetune.data import CleanData
from align.modes.finetune.evaluation import Scores, detect_hacking
from align.modes.finetune.target import TiltedTarget
from align.training import checkpoint, parallel
from align.training.mode import TrainingState


@final
@attrs.define(eq=False)
class FinetuneState(TrainingState):
    """A flow under fine-tuning, with its data and its evaluations so far.

    Attributes:
        model: the model under training, with the module that it began with.
        target: what the objective is handed.
        clean: clean data with their conditions.
        conditions: conditions of the samples that are evaluated.
        references: decoded samples of the base model, from the same noise.
        best: for each held-out reward, the scores (n,) by all rewards in its best evaluation.
        at_hacking: scores (n,) by all rewards in the first evaluation at which the reward was
            hacked; NaN until then.
        base_info: what an evaluation says of the base model.
        streams: random streams of the run's samples.
        anchor: flow of the base model of stage number `stage`; None where there are no stages.
        stage: number of the stage, from 0.
        hacked_after: number of steps before the evaluation of `at_hacking`; 0 until then.
        growth: of the velocity, in the last evaluation.
    """

    model: TrainableVelocity
    target: TiltedTarget
    clean: CleanData
    conditions: Condition
    references: Tensor
    best: dict[str, dict[str, Tensor]]
    at_hacking: dict[str, Tensor]
    base_info: Info
    streams: Streams
    anchor: nn.Module | None = None
    stage: Tensor = attrs.field(factory=lambda: torch.zeros((), dtype=torch.int64))
    hacked_after: Tensor = attrs.field(factory=lambda: torch.zeros((), dtype=torch.int64))
    growth: Tensor = attrs.field(factory=lambda: torch.zeros((), dtype=torch.float64))

    def warning(self, errors: float) -> str:
        """The warning that the reward was hacked, or ""."""
        text = detect_hacking(self.target.problem, self.best, self.at_hacking, errors)
        return text and f"{text}, after {int(self.hacked_after)} steps"

    def track_held_out(self, now: Scores, errors: float, steps: int) -> None:
        """Keep the best scores so far, and the first at which the reward was hacked."""
        if self.warning(errors):
            return
        if detect_hacking(self.target.problem, self.best, now, errors):
            checkpoint.fill(self.at_hacking, now)
            self.hacked_after.fill_(steps)
        for name, best in self.best.items():
            if now[name].mean() > best[name].mean():
                checkpoint.fill(best, now)

    def next_stage(self, pool: int, flow_steps: int) -> None:
        """Make the flow as it is now the base model of the next stage."""
        assert self.anchor is not None
        self.anchor.load_state_dict(parallel.whole_module(self.training.module).state_dict())
        self.stage.add_(1)
        self.rebuild_stage(pool, flow_steps)

    def rebuild_stage(self, pool: int, flow_steps: int) -> None:
        """Put the base model of the stage in place, and a pool of its samples as clean data."""
        problem = self.target.problem
        assert self.anchor is not None
        model = in_dtype_of(problem.model, self.model, self.anchor)
        examples = self.clean.sampled(model, pool, flow_steps, self.streams.seed)
        self.clean = attrs.evolve(self.clean, examples=examples)
        problem = attrs.evolve(problem, model=replaced(problem.model, model))
        self.target = attrs.evolve(self.target, problem=problem, clean=self.clean.rows)


def model_to_train(
    problem: Problem, net: NetworkSpec | None, streams: Streams
) -> TrainableVelocity:
    """The model whose module is to be trained, or a copy of it; its own, or an untrained `net`.

    A model without a flow has one on the diagonal of its map.

    Raises:
        OptionError: its velocity cannot be trained, and there is no `net`.
        PartError: no weights file can name its path.
    """
    if net is not None:
        model = student_of(problem)
        flow = streams.fold_in("weights").initialise(
            lambda: make_network(
                net, model.network_shape, len(model.classes), "flow", model.features
            )
        )
        return model.with_module(flow.to(model.device))
    own = own_module(problem.model)
    if isinstance(own, NetworkModel) and own.teacher is None:
        path_name(own.path)
    return own


def own_module(model: FlowModel) -> TrainableVelocity:
    """A model whose own module can be trained; raises OptionError where it has none."""
    own = model.capability(TrainableVelocity)
    if own is None:
        raise OptionError(
            "mode.net: the model has no module whose training is possible; name a network that"
            " learns its velocity, net = { kind = ... }",
            ("mode", "net"),
        )
    return own


def in_dtype_of(base: FlowModel, model: TrainableVelocity, module: nn.Module) -> FlowModel:
    """A model with a copy of `module`, in the floating type of the base model."""
    own = copy.deepcopy(module)
    if model.dtype == base.dtype:
        return model.with_module(own)
    assert isinstance(model, NetworkModel)  # any other one is the base model with another module
    return attrs.evolve(model.with_module(own.to(base.dtype)), dtype=base.dtype)


def unguided(model: FlowModel) -> FlowModel:
    """The model without guidance of its velocity."""
    trainable = model.capability(TrainableVelocity)
    return replaced(model, trainable.unguided()) if trainable else model


def strengthened(problem: Problem, factor: float) -> Problem:
    """The problem with the weights of all rewards times a factor."""
    return attrs.evolve(problem, reward=problem.reward.times(factor))
