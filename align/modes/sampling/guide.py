"""A reward as the guide of a flow: velocity and shift at any state, by a problem's own parts."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from align.core.dynamics import FlowEvaluation
from align.core.errors import PartError
from align.core.estimate import Estimate
from align.core.estimator import estimate_value
from align.core.model import Condition, NoisyState
from align.core.problem import Problem
from align.core.streams import Streams


@final
class Guide:
    """Evaluates velocity and shift for one step, and remembers the estimates it made.

    A call costs one estimate a row, and a network call where the estimator made none. The first
    estimate has the random numbers of `streams`; later ones have numbers of their own.

    Attributes:
        estimates: all that were made, in turn.
    """

    def __init__(self, problem: Problem, cond: Condition, streams: Streams) -> None:
        """A guide for rows that have these conditions and random numbers.

        Raises:
            PartError: the problem has no estimator.
        """
        if problem.estimator is None:
            raise PartError("guidance needs an estimator")
        self._problem, self._estimator = problem, problem.estimator
        self._cond, self._streams = cond, streams
        self._known: tuple[Tensor, Tensor, Estimate] | None = None
        self.estimates: list[Estimate] = []

    def estimate(self, x: Tensor, t: Tensor) -> Estimate:
        """Estimate value and shift at states x (B, *S) and times t (B,), and remember them."""
        made = len(self.estimates)
        streams = self._streams.fold_in("evaluation", made) if made else self._streams
        noisy = NoisyState(x, t, self._cond)
        estimate = estimate_value(self._estimator, self._problem, noisy, streams=streams)
        self.estimates.append(estimate)
        self.remember(x, t, estimate)
        return estimate

    def remember(self, x: Tensor, t: Tensor, estimate: Estimate) -> None:
        """Answer with this estimate at exactly these states, which then costs nothing again."""
        self._known = x, t, estimate

    def __call__(self, x: Tensor, t: Tensor) -> FlowEvaluation:
        """Velocity and shift, both (B, *S), at states x (B, *S) and times t (B,)."""
        estimate = self._known_at(x, t)
        if estimate is None:
            estimate = self.estimate(x, t)
        if estimate.denoiser is None:
            velocity = self._problem.model.velocity(x, t, self._cond)
        else:
            velocity = self._problem.model.path.velocity_from_denoiser(estimate.denoiser, x, t)
        return FlowEvaluation(velocity, estimate.shift)

    def _known_at(self, x: Tensor, t: Tensor) -> Estimate | None:
        """The estimate that is remembered, if it is one of these very states."""
        if self._known is None or self._known[0] is not x:
            return None
        time = self._known[1]
        return self._known[2] if time is t or torch.equal(time, t) else None
