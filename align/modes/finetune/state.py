"""What fine-tuning has under way, and what it starts from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import final

import attrs
import torch
from torch import Tensor, nn

from align.core.model import Condition, FlowModel
from align.core.network import NetworkSpec, make_network
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.streams import Streams
from align.engine.guard import replaced
from align.models.network_model import NetworkModel, network_of
from align.modes.finetune.data import CleanData
from align.modes.finetune.evaluation import Scores, detect_hacking
from align.modes.finetune.target import TiltedTarget
from align.training import checkpoint, parallel
from align.training.loop import Training


@final
@attrs.define(eq=False)
class FinetuneState:
    """Weights under way, what they are trained on, and what is known of them so far.

    Attributes:
        training: of the flow.
        model: that the flow belongs to.
        tilt: what the objective is handed.
        clean: clean data, and what they are conditioned on.
        shown: conditions of the samples that are evaluated.
        references: decoded samples of the base model, from the same noise.
        best: for each reward held out, the scores (n,) by all in the evaluation that it liked best.
        worst: those in the first evaluation that says the reward was hacked; NaN until then.
        told: what an evaluation says of the base model.
        streams: of the run's samples.
        anchor: flow of the base model of stage `stage`, from the first on; None without stages.
        hacked: number of steps before evaluation `worst`; 0 until then.
    """

    training: Training
    model: NetworkModel
    tilt: TiltedTarget
    clean: CleanData
    shown: Condition
    references: Tensor
    best: dict[str, dict[str, Tensor]]
    at_hacking: dict[str, Tensor]
    told: Mapping[str, float]
    streams: Streams
    anchor: nn.Module | None = None
    stage: Tensor = attrs.field(factory=lambda: torch.zeros((), dtype=torch.int64))
    hacked: Tensor = attrs.field(factory=lambda: torch.zeros((), dtype=torch.int64))

    def warning(self, errors: float) -> str:
        """That the reward was hacked; "" while nothing says so."""
        said = detect_hacking(self.tilt.problem, self.best, self.at_hacking, errors)
        return said and f"{said}, after {int(self.hacked)} steps"

    def track_held_out(self, now: Scores, errors: float, steps: int) -> None:
        """Keep the best scores so far, and the first that say the reward was hacked."""
        if self.warning(errors):
            return
        if detect_hacking(self.tilt.problem, self.best, now, errors):
            checkpoint.fill(self.at_hacking, now)
            self.hacked.fill_(steps)
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
        """Have the base model of the stage in place, and a pool of its samples as clean data."""
        problem = self.tilt.problem
        model = attrs.evolve(self.model, flow=self.anchor, dtype=problem.model.dtype)
        found = self.clean.sampled(model, pool, flow_steps, self.streams.seed)
        self.clean = attrs.evolve(self.clean, examples=found)
        problem = attrs.evolve(problem, model=replaced(problem.model, model))
        self.tilt = attrs.evolve(self.tilt, problem=problem, clean=self.clean.rows)


def trained(problem: Problem, net: NetworkSpec | None, streams: Streams) -> NetworkModel:
    """The model with a flow of its own to train: a copy of what it has, or an untrained `net`.

    Without a flow that is a copy of the map, whose diagonal is one.

    Raises:
        PartError: it is not made of networks, and there is no `net`.
    """
    networks = problem.model.capability(NetworkModel)
    if networks is not None:
        return networks.with_net("flow", copy.deepcopy(networks.require_velocity()))
    if net is None:
        return network_of(problem)
    base = problem.model
    model = NetworkModel(shape=base.shape, domain=base.domain, device=base.device)
    made = streams.fold_in("weights").initialise(lambda: make_network(net, model.shape, 0, "flow"))
    return model.with_net("flow", made.to(model.device))


def unguided(model: FlowModel) -> FlowModel:
    """The model without guidance of its velocity."""
    networks = model.capability(NetworkModel)
    return replaced(model, attrs.evolve(networks, guidance=1.0)) if networks else model


def strengthened(problem: Problem, factor: float) -> Problem:
    """The problem with the weights of all rewards times a factor."""
    terms = (attrs.evolve(t, weight=factor * t.weight) for t in problem.reward.terms)
    return attrs.evolve(problem, reward=WeightedReward(tuple(terms)))
