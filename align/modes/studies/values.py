"""Values of states by long rollouts, which need the velocity alone, and their correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.model import NoisyState
from align.core.path import times_of
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.sde import SDE
from align.modes.sampling.rollout import flow, transitions, unguided

MEMORYLESS: Final = SDE(clamp=math.inf)
"""The noise is not clamped: only then does a rollout end in a draw from p(x1 | x_t)."""


def states(
    problem: Problem, times: Sequence[float], steps: int, streams: Streams
) -> tuple[NoisyState, ...]:
    """States of B samples at each of the times, by the flow in Euler steps from the same noise.

    Raises:
        PartError: there is one sample only.
    """
    if len(streams.samples) < 2:
        raise PartError("run.samples: a correlation is over states; make at least 2")
    model = problem.model
    start = streams.fold_in("start").normal(model.shape).to(model.device, model.dtype)
    noisy = []
    for time in times:
        x = flow(model, start, problem.cond, end=time, steps=steps)
        noisy.append(NoisyState(x, times_of(x, time), problem.cond))
    return tuple(noisy)


def advanced(
    problem: Problem, noisy: NoisyState, x: Tensor, step: int, steps: int, streams: Streams
) -> Tensor:
    """Step number `step` of `steps` equal ones from the states of `noisy` to t = 1.

    The process is the memoryless one, dx = (b + σ_t²/2 s) dt + σ_t dW, under which x_1 is a draw
    from p(x1 | x_t). A step is Euler's; with 100 of them the bias of V is far below the error of a
    thousand rollouts.

    Args:
        problem: has the model.
        noisy: where the rollouts begin, (B, *S).
        x: where they are, (B, *S).
        step: from 0.
        steps: of the whole way.
        streams: one row a rollout.

    Returns:
        The states after the step, (B, *S).

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 14 and 39.
    """
    times = [noisy.t + (1 - noisy.t) * (step + ahead) / steps for ahead in (0, 1)]
    flow_of_model = unguided(problem.model, noisy.cond)
    (transition,) = transitions(MEMORYLESS, flow_of_model, x, times, streams, first=step)
    return transition.x


def scored(problem: Problem, ends: Tensor) -> Tensor:
    """r (M, B) of clean states (M, B, *S), in pieces that fit into memory."""
    size = max(1, problem.chunks.cap // ends.shape[1])
    return torch.cat([problem.reward_of(piece, problem.cond) for piece in ends.split(size)])


def value(rewards: Tensor) -> Tensor:
    """V = log (1/N) Σ e^r, (B,), of rewards (N, B)."""
    return torch.logsumexp(rewards.double(), 0) - math.log(len(rewards))


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlation of a and b, (B,).

    Raises:
        PartError: one of them is the same everywhere.
    """
    if min(float(a.std()), float(b.std())) == 0:
        raise PartError("value_correlation: all states have the same value; is there a reward?")
    return float(torch.corrcoef(torch.stack((a, b)))[0, 1])


def noise(time: float, rewards: Tensor) -> str:
    """A sentence on the highest r that the noise of rollouts with rewards (M, B) allows.

    If ρ is the correlation of the values by either half of the rollouts, an exact value has the
    correlation √(2ρ / (1 + ρ)) with that by all of them.

    Reference: The proof and measurement of association between two things, Spearman, 1904,
    doi:10.2307/1412159 (attenuation); Correlation calculated from faulty data, Spearman, 1910,
    doi:10.1111/j.2044-8295.1910.tb00206.x (halves).
    """
    halves = max(0.0, pearson(*map(value, rewards.chunk(2))))
    highest = math.sqrt(2 * halves / (1 + halves))
    return f"At t = {time:g} noise of the rollouts limits r to {highest:.2f} for an exact value."
