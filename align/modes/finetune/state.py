"""The state of fine-tuning, and the model that it starts from."""

from __future__ import annotations

import copy
from typing import final

import attrs
import torch
from torch import Tensor, nn

from align.core.mode import Info
from align.core.model import Condition, FlowModel
from align.core.network import NetworkSpec, make_network
from align.core.path import path_name
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.streams import Streams
from align.engine.guard import replaced
from align.models.network_model import NetworkModel, network_of, without_networks
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
        model: the model that the flow belongs to.
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
    """

    model: NetworkModel
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
        model = attrs.evolve(self.model, flow=self.anchor, dtype=problem.model.dtype)
        examples = self.clean.sampled(model, pool, flow_steps, self.streams.seed)
        self.clean = attrs.evolve(self.clean, examples=examples)
        problem = attrs.evolve(problem, model=replaced(problem.model, model))
        self.target = attrs.evolve(self.target, problem=problem, clean=self.clean.rows)


def with_trainable_flow(
    problem: Problem, net: NetworkSpec | None, streams: Streams
) -> NetworkModel:
    """The model with a flow to train: a copy of its flow or map, or an untrained `net`.

    A model without a flow has one on the diagonal of its map.

    Raises:
        PartError: it is not made of networks, and there is no `net`; or no weights file can name
            its path.
    """
    networks = problem.model.capability(NetworkModel)
    if networks is not None:
        path_name(networks.path)
        return networks.with_net("flow", copy.deepcopy(networks.require_velocity()))
    if net is None:
        return network_of(problem)
    model = without_networks(problem.model)
    flow = streams.fold_in("weights").initialise(lambda: make_network(net, model.shape, 0, "flow"))
    return model.with_net("flow", flow.to(model.device))


def unguided(model: FlowModel) -> FlowModel:
    """The model without guidance of its velocity; as it is, where the network itself guides."""
    networks = model.capability(NetworkModel)
    if networks is None or networks.embeds_guidance:
        return model
    return replaced(model, attrs.evolve(networks, guidance=1.0))


def strengthened(problem: Problem, factor: float) -> Problem:
    """The problem with the weights of all rewards times a factor."""
    terms = (attrs.evolve(t, weight=factor * t.weight) for t in problem.reward.terms)
    return attrs.evolve(problem, reward=WeightedReward(tuple(terms)))
