"""GLASS: the memoryless transition by an inner flow."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
from torch import Tensor

from align.core.dynamics import Dynamics, GuidedFlow, Slope, Transition
from align.core.option import at_least, option
from align.core.streams import Streams
from align.samplers.glass import InnerFlow, Method
from align.samplers.transition import glass_transition


@final
@attrs.frozen(kw_only=True)
class GlassTransition(Dynamics):
    """Fresh noise, for few and long steps: an inner flow each.

    The memoryless transition p(x_u | x_t) by an inner flow, exact for many inner steps.

    Where DDPM takes the posterior for a point, an inner flow from fresh noise goes some way towards
    p(x1 | x_t), as far as x_u knows x1. Its velocity is the guided one, at states that lie between
    x_t and x_u in what they know, so that outer steps may be few and long. Noise goes in at the
    start of a curved path: a step has no density in closed form.

    Reference: GLASS Flows, Holderrieth et al., 2025, arXiv:2509.25170; Diamond Maps: Efficient
    Reward Alignment via Stochastic Flow Maps, Holderrieth et al., 2026, arXiv:2602.05993.
    """

    kind: ClassVar[str] = "glass"
    has_density: ClassVar[bool] = False

    inner_steps: int = option(
        "steps of the inner flow", default=4, check=at_least(1), grows="calls"
    )
    method: Method = option(
        "'euler', or 'heun': of second order, at two evaluations an inner step but the last",
        default="euler",
    )

    def step(
        self, flow: GuidedFlow, x: Tensor, t: Tensor, u: Tensor, streams: Streams
    ) -> Transition:
        """One step; costs `inner_steps` evaluations, or 2 · `inner_steps` − 1 with 'heun'."""
        slopes = list[Slope]()

        def velocity(state: Tensor, time: Tensor) -> Tensor:
            slopes.append(flow.velocity(state, time))
            return slopes[-1].total

        noise = streams.normal(tuple(x.shape[1:])).to(x)
        inner = InnerFlow(velocity, flow.path, x, t)
        reached = glass_transition(
            inner, u, steps=self.inner_steps, method=self.method, noise=noise
        )
        return Transition(reached, slopes[0].strength)
