"""Steps one after the other: the loop that every mode and study shares which follows a flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from align.core.dynamics import Dynamics, FlowEvaluation, GuidedFlow, Transition, take_step
from align.core.errors import DivergedError
from align.core.model import Condition, FlowModel, Scheduled
from align.core.path import times_of
from align.core.streams import Streams
from align.dynamics.ode import ODE

TimeGrid: TypeAlias = Literal["model", "uniform"]
"""Whose times steps stop at: the model's own, where it has any, or those of `grid`."""

TIME_GRID_HELP: Final = (
    "times of the steps: 'model' are those of the model's own sampler, where it has one; else, and"
    " with 'uniform', `start` and `power` say them"
)


def grid(steps: int, start: float, power: float) -> list[float]:
    """Times start + (1 − start) (j/K)^power for j = 0 .. K."""
    return [start + (1 - start) * (j / steps) ** power for j in range(steps)] + [1.0]


def time_grid(
    model: FlowModel, steps: int, kind: TimeGrid, start: float, power: float
) -> list[float]:
    """The times of so many steps, rising, up to 1; see `TimeGrid`."""
    own = model.capability(Scheduled) if kind == "model" else None
    return grid(steps, start, power) if own is None else list(own.times(steps))


def first_states(model: FlowModel, noise: Tensor, steps: int, kind: TimeGrid) -> Tensor:
    """Noise N(0, I) (B, *S) as the states at the first of the times of `time_grid`."""
    own = model.capability(Scheduled) if kind == "model" else None
    return noise if own is None else own.begin(noise, steps)


def unguided(model: FlowModel, cond: Condition) -> GuidedFlow:
    """The flow of a model without a reward; an evaluation costs one network call a row."""

    def evaluate(x: Tensor, t: Tensor) -> FlowEvaluation:
        return FlowEvaluation(model.velocity(x, t, cond), torch.zeros_like(x))

    return GuidedFlow(model.path, evaluate)


def transitions(
    dynamics: Dynamics,
    flow: GuidedFlow,
    x: Tensor,
    times: Sequence[float | Tensor],
    streams: Streams,
    *,
    first: int = 0,
) -> Iterator[Transition]:
    """The steps from x (B, *S) through `times`, one after the other.

    Args:
        dynamics: makes the steps.
        flow: is followed.
        x: states at the first of the times.
        times: each one time for all rows, or one for each, (B,).
        streams: one row a state; step number k has those of the purpose ("step", k).
        first: number of the first step.

    Yields:
        The transition of each step; the next begins at its `x`.
    """
    for index, (now, later) in enumerate(pairwise(times), first):
        t, u = times_of(x, now), times_of(x, later)
        transition = take_step(dynamics, flow, x, t, u, streams.fold_in("step", index))
        yield transition
        x = transition.x


def rollout(
    dynamics: Dynamics,
    flow: GuidedFlow,
    x: Tensor,
    times: Sequence[float | Tensor],
    streams: Streams,
) -> Tensor:
    """States at the last of the times, (B, *S), from x at the first; see `transitions`."""
    for transition in transitions(dynamics, flow, x, times, streams):
        x = transition.x
    return x


def flow(model: FlowModel, x: Tensor, cond: Condition, *, steps: int, end: float = 1.0) -> Tensor:
    """The model's flow from noise x (B, *S) to `end`, in Euler steps of the ODE.

    They are of equal length from time 0, or those of the model's own sampler where it has one and
    the flow is followed to its end.
    """
    times = [end * j / steps for j in range(steps + 1)]
    if end == 1.0 and model.capability(Scheduled) is not None:
        times = time_grid(model, steps, "model", 0.0, 1.0)
        x = first_states(model, x, steps, "model")
    no_numbers = Streams(0, ())  # the ODE draws none
    return rollout(ODE(), unguided(model, cond), x, times, no_numbers)


def check_finite(x: Tensor, strength: float) -> None:
    """Raise DivergedError unless all states are finite; `strength` is ‖guidance‖ / ‖drift‖."""
    if not x.isfinite().all():
        raise DivergedError(
            f"guidance was {strength:.2g} times the flow's drift, and states are not finite any"
            " more; use more steps, guidance_norm = 'clip', or a lower weight"
        )
