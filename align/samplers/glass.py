"""GLASS: posterior samples from any flow model, by an inner flow that needs no training."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.model import Condition, FlowModel, NoisyState
from align.core.option import at_least, option
from align.core.path import Path, expand
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams

Method: TypeAlias = Literal["euler", "heun"]
Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""b_t(x), (B, *S), of states x (B, *S) at times t (B,)."""


def inner_velocity(
    velocity: Velocity, path: Path, y: Tensor, s: Tensor, x: Tensor, t: Tensor
) -> Tensor:
    """Inner velocity b̄_s(y; t, x): the flow from N(0, I) towards p(x1 | x_t = x).

    To see both x = β_t x1 + α_t ε and y = β_s x1 + α_s ε' is to see x1 once at a later time t*:

        Q = β_t² α_s² + β_s² α_t²,      S = (β_t α_s² x + β_s α_t² y) / Q,
        α*²/β*² = α_s² α_t² / Q,        D = D_{t*}(β* S),        v = b_{t*}(β* S),
        b̄ = (α'_s/α_s) (y − β_s D) + β'_s D,

    of which the first term is taken in a form that does not divide by α_s, with
    w = α* β*' − α*' β*:

        (y − β_s D)/α_s = α_s β_t (β_t y − β_s x)/Q + β_s α_t β* (β*' S − v) / (√Q w).

    Args:
        velocity: of the flow; it is called once.
        path: the flow's interpolant.
        y: inner states, (B, *S).
        s: inner times in [0, 1), (B,).
        x: the noisy states (B, *S) that are conditioned on.
        t: their times in [0, 1), (B,).

    Returns:
        The inner velocity, (B, *S).

    Reference: GLASS Flows, Holderrieth et al., 2025, arXiv:2509.25170; Meta Flow Maps,
    Potaptchik et al., 2026, arXiv:2601.14430, Eq. 25 and 32.
    """
    s = s.clamp(min=torch.finfo(s.dtype).tiny ** 0.25)  # S has no limit at s = t = 0
    a_s, b_s, a_t, b_t = path.alpha(s), path.beta(s), path.alpha(t), path.beta(t)
    q = b_t**2 * a_s**2 + b_s**2 * a_t**2
    later = path.time_at(a_s**2 * a_t**2 / q)
    a, b, a_rate, b_rate = (
        f(later) for f in (path.alpha, path.beta, path.alpha_rate, path.beta_rate)
    )
    statistic = expand(b_t * a_s**2 / q, y) * x + expand(b_s * a_t**2 / q, y) * y
    state = expand(b, y) * statistic
    slope = velocity(state, later)
    denoiser = path.denoiser_from_velocity(slope, state, later)
    noise = expand(a_s * b_t / q, y) * (expand(b_t, y) * y - expand(b_s, y) * x)
    scale = b_s * a_t * b / (q.sqrt() * (a * b_rate - a_rate * b))
    noise = noise + expand(scale, y) * (expand(b_rate, y) * statistic - slope)
    return expand(path.alpha_rate(s), y) * noise + expand(path.beta_rate(s), y) * denoiser


def glass_velocity(model: FlowModel, y: Tensor, s: Tensor, noisy: NoisyState) -> Tensor:
    """`inner_velocity` of a model, (B, *S), at inner states y (B, *S) and times s (B,).

    Costs one network call a row.
    """
    return inner_velocity(velocity_of(model, noisy.cond), model.path, y, s, noisy.x, noisy.t)


def velocity_of(model: FlowModel, cond: Condition) -> Velocity:
    """The velocity of a model under a condition, as a function of state and time."""
    return lambda x, t: model.velocity(x, t, cond)


def inner_flow(
    velocity: Velocity,
    path: Path,
    y: Tensor,
    end: Tensor,
    x: Tensor,
    t: Tensor,
    *,
    steps: int,
    method: Method,
) -> Tensor:
    """The inner flow from noise y (B, *S) at time 0 to the times `end` (B,), in equal steps.

    Heun's last step is Euler's. That keeps its order, two, and costs 2 · steps − 1 network calls
    for Euler's `steps`. A corrector at s = 1 would be finite, b̄_1(y) = b_1(y), but it does not
    depend on x, and networks are trained least there: where the posterior is narrow and steps are
    few, it would throw draws far off. With Euler's, one step on the linear path returns the
    denoiser by either method.

    Args:
        velocity: of the flow, as in `inner_velocity`.
        path: the flow's interpolant.
        y: inner states at time 0, (B, *S).
        end: inner times to stop at, (B,).
        x: the noisy states (B, *S) that are conditioned on.
        t: their times in [0, 1), (B,).
        steps: number of steps.
        method: "euler" or "heun".
    """
    width = expand(end / steps, y)
    for k in range(steps):
        slope = inner_velocity(velocity, path, y, end * (k / steps), x, t)
        if method == "heun" and k < steps - 1:
            time = end * ((k + 1) / steps)
            ahead = inner_velocity(velocity, path, y + width * slope, time, x, t)
            slope = (slope + ahead) / 2
        y = y + width * slope
    return y


@final
@attrs.frozen(kw_only=True)
class Glass(PosteriorSampler):
    """Integrates the inner flow from noise to p(x1 | x_t), with Euler or Heun steps.

    With one step on the linear path every draw is the denoiser D_t(x). Heun's method pays from
    about eight steps on; with fewer, or late in time, Euler's is as good at as many network calls.

    Reference: GLASS Flows, Holderrieth et al., 2025, arXiv:2509.25170; Meta Flow Maps,
    Potaptchik et al., 2026, arXiv:2601.14430, Eq. 25 and 32.
    """

    kind: ClassVar[str] = "glass"
    differentiable: ClassVar[bool] = True
    exact_for: ClassVar[str] = "an exact velocity, in the limit of many steps"
    needs: ClassVar[type | None] = None

    steps: int = option("steps of the inner flow", default=10, check=at_least(1))
    method: Method = option(
        "'euler', or 'heun': of second order, at two network calls a step but the last",
        default="euler",
    )

    def sample(
        self, model: FlowModel, noisy: NoisyState, *, draws: int, streams: Streams
    ) -> Tensor:
        """Draws (N, B, *S) of x1; costs N · steps network calls a state, or N · (2 steps − 1)."""
        noise = streams.fold_in("posterior").normal(model.shape, draws=draws)
        y, noisy = noise.to(noisy.x).flatten(0, 1), noisy.tile(draws)
        end = torch.ones_like(noisy.t)
        y = inner_flow(
            velocity_of(model, noisy.cond),
            model.path,
            y,
            end,
            noisy.x,
            noisy.t,
            steps=self.steps,
            method=self.method,
        )
        return y.reshape(draws, -1, *model.shape)
