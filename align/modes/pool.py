"""Clean states of a model that cannot draw data and was given none: samples of its own flow."""

from __future__ import annotations

import torch
from loguru import logger
from torch import Tensor

from align.core.model import Condition, FlowModel
from align.core.problem import Problem
from align.core.streams import Streams
from align.io.text import number_of
from align.modes.sampling.rollout import flow
from align.training.latents import Examples


@torch.no_grad()
def own_samples(
    model: FlowModel, cond: Condition, streams: Streams, steps: int, chunk: int
) -> Tensor:
    """Samples x1 (B, *S) of a model, one for each row of `streams`, by `steps` Euler steps.

    Args:
        model: whose flow is followed.
        cond: what the rows are conditioned on.
        streams: of the noise that they start from.
        steps: of the ODE.
        chunk: most rows that are made at once.
    """
    count, pieces = len(cond), list[Tensor]()
    nfe = count * steps * model.rows_per_velocity
    if count * steps > 1:  # a single call is not worth a line
        made, each = number_of(count, "sample"), number_of(steps, "step")
        text = "clean data are {} of the model's own flow, in {} each: {:,} NFE"
        logger.bind(notice=True).info(text, made, each, nfe)
    for first in range(0, count, chunk):
        rows = slice(first, min(count, first + chunk))
        x = streams.rows(rows).normal(model.shape).to(model.device, model.dtype)
        pieces.append(flow(model, x, cond.rows(rows), steps=steps))
    return torch.cat(pieces)


def pool_of(
    problem: Problem, model: FlowModel, conditions: Condition, count: int, steps: int, seed: int
) -> Examples:
    """So many samples of a model for P conditions in turn, labelled by the conditions' numbers."""
    streams = Streams(seed, tuple(range(count)), ("pool",), model.device)
    turns = in_turn(conditions, range(count))
    states = own_samples(model, conditions.rows(turns), streams, steps, problem.chunks.cap)
    return Examples(states[None], turns.to(model.device), len(conditions))


def in_turn(conditions: Condition, numbers: tuple[int, ...] | range) -> Tensor:
    """Which of P conditions rows with these numbers have; they have them in turn."""
    return torch.tensor([number % len(conditions) for number in numbers])
