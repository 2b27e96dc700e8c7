"""What draws and samples are measured against."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from align.core.dataset import DatasetSpec
from align.core.metric import Metric
from align.core.model import Condition, DataSampler, ModelSpec
from align.core.problem import Problem
from align.core.streams import Streams
from align.errors import PartError
from align.models.network_model import NetworkModel
from align.training.latents import encoded


def clean(
    data: DatasetSpec | None, data_model: ModelSpec | None, problem: Problem, streams: Streams
) -> tuple[Tensor, Condition]:
    """Clean states x1 (B, *S), one for each row of `streams`, and what they are conditioned on.

    Args:
        data: pictures, which the model's autoencoder makes states of; each has its class.
        data_model: a model that draws them, where they are no pictures; None is the problem's own.
        problem: its condition is that of states which have no class of their own.
        streams: say which of the pictures, or which draws.

    Raises:
        PartError: there are no such data, or too few, or the model cannot take them.
    """
    if data is not None:
        model = problem.model.capability(NetworkModel)
        if model is None:
            raise PartError("mode.data: only a model made of networks takes pictures; leave it out")
        if any(problem.cond.prompts):
            raise PartError("model.prompt: the study is of all pictures; leave it empty")
        once = attrs.evolve(data, **{"mirror": False}) if data.mirror else data
        found = encoded(once, model.encoding())
        there, asked = found.states.shape[1], len(streams.samples)
        if asked > there:
            raise PartError(f"run.samples: {asked}, but mode.data has {there} pictures")
        x1, label = found.rows(streams.fold_in("data"), 0.0)
        return x1, model.encode([model.classes[k] if model.classes else "" for k in label.tolist()])
    source = data_model.build(problem.model.device) if data_model else problem.model
    sampler = source.capability(DataSampler)
    if sampler is None:
        raise PartError("mode.data: the model cannot draw data; name pictures, or mode.data_model")
    return sampler.draw(streams.fold_in("data")).to(problem.model.dtype), problem.cond


def measured(metric: Metric, problem: Problem, x1: Tensor, references: Tensor) -> tuple[str, float]:
    """Name and value of the one number that a metric has for clean states x1 (B, *S)."""
    domain = problem.model.domain
    if metric.domain not in (None, domain):
        raise PartError(f"mode.metric: '{metric.kind}' measures {metric.domain}s, not {domain}s")
    found = metric.compute(decoded(problem, x1), references if metric.needs_references else None)
    if len(found) != 1:
        raise PartError(f"mode.metric: '{metric.kind}' has {len(found)} numbers, expected one")
    return next(iter(found.items()))


@torch.no_grad()
def decoded(problem: Problem, x1: Tensor) -> Tensor:
    """Clean states (B, *S) as metrics see them."""
    return problem.model.decode(x1)
