"""The data that studies measure draws and samples against."""

from __future__ import annotations

from typing import Final

import attrs
import torch
from torch import Tensor

from align.core.dataset import DatasetSpec
from align.core.errors import PartError
from align.core.metric import Metric, compute_metric
from align.core.model import Condition, DataSampler, ModelSpec, build_model
from align.core.problem import Problem
from align.core.streams import Streams
from align.models.network_model import encoding_of
from align.modes.pool import own_samples
from align.training.latents import encoded

STEPS: Final = 100
"""Euler steps of data that are a model's own samples."""


def clean(
    data: DatasetSpec | None, data_model: ModelSpec | None, problem: Problem, streams: Streams
) -> tuple[Tensor, Condition]:
    """Clean states x1 (B, *S), one for each row of `streams`, and what they are conditioned on.

    Args:
        data: pictures, each with its class; the model's autoencoder encodes them.
        data_model: the model that draws the data if they are not pictures; None for the problem's,
            which is sampled along its own flow if it cannot draw any.
        problem: has the model, and the condition of states that have no class.
        streams: choose the pictures, or make the draws; one row a state.

    Raises:
        PartError: a data model has no data to draw, the model cannot encode pictures, or there are
            too few.
    """
    model = problem.model
    if data is not None:
        if any(problem.cond.prompts):
            raise PartError("model.prompt: the study is of all pictures; leave it empty")
        once = attrs.evolve(data, **{"mirror": False}) if data.mirror else data
        encoding = encoding_of(model)
        latents = encoded(once, encoding)
        available, wanted = latents.states.shape[1], len(streams.samples)
        if wanted > available:
            raise PartError(f"run.samples: {wanted}, but mode.data has {available} pictures")
        x1, label = latents.rows(streams.fold_in("data"), 0.0)
        classes = encoding.classes
        return x1, model.encode([classes[k] if classes else "" for k in label.tolist()])
    source = build_model(data_model, model.device) if data_model else model
    sampler, drawn = source.capability(DataSampler), streams.fold_in("data")
    if sampler is not None:
        return sampler.draw(drawn).to(model.dtype), problem.cond
    if data_model is not None:
        raise PartError("mode.data_model: the model cannot draw data; name another, or pictures")
    return own_samples(model, problem.cond, drawn, STEPS, problem.chunks.cap), problem.cond


def measured(metric: Metric, problem: Problem, x1: Tensor, references: Tensor) -> tuple[str, float]:
    """Name and value of the one number that a metric has for clean states x1 (B, *S)."""
    domain = problem.model.domain
    if metric.domain not in (None, domain):
        raise PartError(f"mode.metric: '{metric.kind}' measures {metric.domain}s, not {domain}s")
    numbers = compute_metric(metric, decoded(problem, x1), references)
    if len(numbers) != 1:
        raise PartError(f"mode.metric: '{metric.kind}' has {len(numbers)} numbers, expected one")
    return next(iter(numbers.items()))


@torch.no_grad()
def decoded(problem: Problem, x1: Tensor) -> Tensor:
    """Clean states (B, *S) as metrics see them."""
    return problem.model.decode(x1)
