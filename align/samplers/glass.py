"""GLASS: posterior samples from any flow model, by an inner flow that needs no training."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.model import FlowModel, NoisyState
from align.core.option import at_least, option
from align.core.path import Path, expand
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams

Method: TypeAlias = Literal["euler", "heun"]
Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""b_t(x), (B, *S), of states x (B, *S) at times t (B,)."""


@final
@attrs.frozen(eq=False)
class InnerFlow:
    """The flow from noise y ~ N(0, I) at inner time s = 0 to p(x1 | x_t = x) at s = 1.

    Attributes:
        velocity: of the outer flow.
        path: the outer flow's interpolant.
        x: the noisy states (B, *S) that are conditioned on.
        t: their times in [0, 1), (B,).

    Reference: GLASS Flows, Holderrieth et al., 2025, arXiv:2509.25170; Meta Flow Maps,
    Potaptchik et al., 2026, arXiv:2601.14430, Eq. 25 and 32.
    """

    velocity: Velocity
    path: Path
    x: Tensor
    t: Tensor

    @classmethod
    def of(cls, model: FlowModel, noisy: NoisyState) -> InnerFlow:
        """The inner flow of a model at noisy states."""
        return cls(lambda x, t: model.velocity(x, t, noisy.cond), model.path, noisy.x, noisy.t)

    def slope(self, y: Tensor, s: Tensor) -> Tensor:
        """Inner velocity b̄_s(y; t, x), (B, *S), at inner states y (B, *S); s is (B,), in [0, 1).

        b̄ = α'_s ε̂ + β'_s D, of the noise and the clean state that `ends` finds in y. Costs one call
        of the outer velocity.
        """
        noise, denoiser = self.ends(y, s)
        path = self.path
        return expand(path.alpha_rate(s), y) * noise + expand(path.beta_rate(s), y) * denoiser

    def ends(self, y: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Means of the noise ε̂ and of x1 given x and y = α_s ε̂ + β_s D, (B, *S) each; see `slope`.

        To see both x = β_t x1 + α_t ε and y = β_s x1 + α_s ε' is to see x1 once at a later time t*:

            Q = β_t² α_s² + β_s² α_t²,      S = (β_t α_s² x + β_s α_t² y) / Q,
            α*²/β*² = α_s² α_t² / Q,        D = D_{t*}(β* S),        v = b_{t*}(β* S),
            ε̂ = (y − β_s D)/α_s,

        which is taken in a form that does not divide by α_s, with w = α* β*' − α*' β*:

            (y − β_s D)/α_s = α_s β_t (β_t y − β_s x)/Q + β_s α_t β* (β*' S − v) / (√Q w).

        Costs one call of the outer velocity.
        """
        path, x, t = self.path, self.x, self.t
        s = s.clamp(min=torch.finfo(s.dtype).tiny ** 0.25)  # S has no limit at s = t = 0
        a_s, b_s, a_t, b_t = path.alpha(s), path.beta(s), path.alpha(t), path.beta(t)
        q = b_t**2 * a_s**2 + b_s**2 * a_t**2
        later = path.time_at(a_s**2 * a_t**2 / q)
        a, b, a_rate, b_rate = (
            f(later) for f in (path.alpha, path.beta, path.alpha_rate, path.beta_rate)
        )
        statistic = expand(b_t * a_s**2 / q, y) * x + expand(b_s * a_t**2 / q, y) * y
        state = expand(b, y) * statistic
        velocity = self.velocity(state, later)
        denoiser = path.denoiser_from_velocity(velocity, state, later)
        noise = expand(a_s * b_t / q, y) * (expand(b_t, y) * y - expand(b_s, y) * x)
        scale = b_s * a_t * b / (q.sqrt() * (a * b_rate - a_rate * b))
        noise = noise + expand(scale, y) * (expand(b_rate, y) * statistic - velocity)
        return noise, denoiser

    def to(self, end: Tensor, y: Tensor, *, steps: int, method: Method) -> Tensor:
        """Inner states (B, *S) at the inner times `end` (B,), from noise y (B, *S) at time 0.

        A step from s to u holds ε̂ and D, and follows the path between them,

            y' = y + (α_u − α_s) ε̂ + (β_u − β_s) D,

        which on the linear path is Euler's y + (u − s) b̄. On a curved path Euler's would leave the
        path even where D is known, by as much in short outer steps as in long ones.

        Heun's last step is Euler's. That keeps its order, two, and costs 2 · steps − 1 network
        calls for Euler's `steps`. A corrector at s = 1 would be finite, b̄_1(y) = b_1(y), but it
        does not depend on x, and networks are trained least there: where the posterior is narrow
        and steps are few, it would throw draws far off. With Euler's, one step returns
        the denoiser by either method.

        Args:
            end: inner times to stop at, (B,).
            y: inner states at time 0, (B, *S).
            steps: number of steps, of equal length.
            method: "euler" or "heun".
        """
        path = self.path
        for k in range(steps):
            s, u = end * (k / steps), end * ((k + 1) / steps)
            of_noise = expand(path.alpha(u) - path.alpha(s), y)
            of_data = expand(path.beta(u) - path.beta(s), y)
            noise, denoiser = self.ends(y, s)
            if method == "heun" and k < steps - 1:
                later, clean = self.ends(y + of_noise * noise + of_data * denoiser, u)
                noise, denoiser = (noise + later) / 2, (denoiser + clean) / 2
            y = y + of_noise * noise + of_data * denoiser
        return y


def glass_velocity(model: FlowModel, y: Tensor, s: Tensor, noisy: NoisyState) -> Tensor:
    """The inner velocity of a model, (B, *S), at inner states y (B, *S) and times s (B,).

    Costs one network call a row.
    """
    return InnerFlow.of(model, noisy).slope(y, s)


@final
@attrs.frozen(kw_only=True)
class Glass(PosteriorSampler):
    """Any flow: draws at several network calls each.

    Integrates the inner flow from noise to p(x1 | x_t), with Euler or Heun steps.

    With one step every draw is the denoiser D_t(x). Heun's method pays from
    about eight steps on; with fewer, or late in time, Euler's is as good at as many network calls.

    Reference: GLASS Flows, Holderrieth et al., 2025, arXiv:2509.25170; Meta Flow Maps,
    Potaptchik et al., 2026, arXiv:2601.14430, Eq. 25 and 32.
    """

    kind: ClassVar[str] = "glass"
    differentiable: ClassVar[bool] = True
    exact_for: ClassVar[str] = "an exact velocity, in the limit of many steps"
    needs: ClassVar[type | None] = None

    steps: int = option("steps of the inner flow", default=10, check=at_least(1), grows="calls")
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
        inner = InnerFlow.of(model, noisy)
        y = inner.to(torch.ones_like(noisy.t), y, steps=self.steps, method=self.method)
        return y.reshape(draws, -1, *model.shape)
