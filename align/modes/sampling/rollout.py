"""Steps one after the other: the loop that every mode and study shares which follows a flow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias

import attrs
import torch
from torch import Tensor

from align.core.checks import checks, count_not_finite
from align.core.dynamics import Dynamics, FlowEvaluation, GuidedFlow, Transition, take_step
from align.core.errors import AlignError, DivergedError
from align.core.model import Condition, FlowModel, Scheduled
from align.core.option import above, between
from align.core.path import Path, times_of
from align.core.streams import Streams
from align.dynamics.ode import ODE

TimeGrid: TypeAlias = Literal["model", "uniform", "log_snr"]
"""Times that steps stop at: the model's own, where it has any; those of `grid`; of `log_snr`."""

TIME_GRID_HELP: Final = (
    "times of the steps: 'model' are those of the model's own sampler, where it has one; else, and"
    " with 'uniform', `start` and `power` say them; 'log_snr' are equally far apart in log(β/α),"
    " which suits few steps with noise"
)


def check_start(spec: Any, attribute: attrs.Attribute[Any], value: float) -> None:
    """Refuse a `start` outside [0, 0.99], or that `spec.grid` cannot begin at."""
    between(0, 0.99)(spec, attribute, value)
    if spec.grid == "log_snr" and not 0 < value < 0.5:
        raise ValueError(
            f"'start' must be above 0 and below 0.5 with grid 'log_snr', got {value:g}"
        )


def check_power(spec: Any, attribute: attrs.Attribute[Any], value: float) -> None:
    """Refuse a `power` of 0 or less, or beside a `spec.grid` without one."""
    above(0)(spec, attribute, value)
    if spec.grid == "log_snr" and value != 1:
        raise ValueError("'power' must be left out with grid 'log_snr', where steps are equal")


def grid(steps: int, start: float, power: float) -> list[float]:
    """Times start + (1 − start) (j/K)^power for j = 0 .. K."""
    return [start + (1 - start) * (j / steps) ** power for j in range(steps)] + [1.0]


def log_snr(path: Path, steps: int, start: float) -> list[float]:
    """Times from `start` whose log(α/β) falls by equal steps to the opposite number, and 1.

    There noise is to data as data were to noise at the start: on the paths of recipes the last
    step begins at 1 − start. Each step takes away the same share of the noise, so that narrow data,
    which are told apart late, have as many steps as wide ones.

    Reference: DPM-Solver: a fast ODE solver for diffusion probabilistic model sampling in around 10
    steps, Lu et al., 2022, arXiv:2206.00927 (its step size schedule, uniform in the log SNR).

    Args:
        path: the interpolant.
        steps: K >= 1.
        start: in (0, 0.5).
    """
    begin = torch.tensor(start, dtype=torch.float64)
    ratio = float(path.alpha(begin) / path.beta(begin))
    shares = torch.linspace(1, -1, steps, dtype=torch.float64)
    later = path.time_at(torch.exp(2 * math.log(ratio) * shares))[1:]
    return [start, *later.tolist(), 1.0]


def time_grid(
    model: FlowModel, steps: int, kind: TimeGrid, start: float, power: float
) -> list[float]:
    """The times of so many steps, rising, up to 1; see `TimeGrid`."""
    if kind == "log_snr":
        return log_snr(model.path, steps, start)
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


def check_finite(x: Tensor, strength: Tensor) -> None:
    """Check states x (B, *S): DivergedError unless they are finite.

    Args:
        x: the states.
        strength: ‖guidance‖ / ‖drift‖ of the step that led there, ().
    """

    def error(numbers: Sequence[float]) -> AlignError | None:
        bad, strength = numbers
        return (
            DivergedError(
                f"guidance was {strength:.2g} times the flow's drift, and states are not finite any"
                " more; use more steps, guidance_norm = 'clip', or a lower weight"
            )
            if bad
            else None
        )

    checks().add(error, count_not_finite(x), strength)
