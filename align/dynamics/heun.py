"""Heun's method: the flow with an error of second order."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.dynamics import Dynamics, GuidedFlow, Transition
from align.core.path import expand
from align.core.streams import Streams


@final
@attrs.frozen(kw_only=True)
class Heun(Dynamics):
    """No fresh noise, second order: for few steps.

    Heun's method along the velocity: the mean of the slopes at both ends of a step.

        x̃ = x + (u − t) b*_t(x),   x' = x + (u − t) (b*_t(x) + b*_u(x̃))/2,   b* = b + c_t (D* − D).

    The error falls with the square of the step's length, that of the ODE's Euler steps with the
    length. The step to t = 1 is Euler's, as guidance is not known there; that keeps the order, and
    K steps cost 2 K − 1 evaluations.

    Reference: Elucidating the design space of diffusion-based generative models, Karras, Aittala,
    Aila, Laine, 2022, arXiv:2206.00364, Algorithm 1.
    """

    kind: ClassVar[str] = "heun"
    has_density: ClassVar[bool] = False

    def step(
        self, flow: GuidedFlow, x: Tensor, t: Tensor, u: Tensor, streams: Streams
    ) -> Transition:
        """One step; costs two evaluations, and one where every u is 1."""
        here, width = flow.velocity(x, t), expand(u - t, x)
        euler = x + width * here.total
        inside = u < 1
        if not bool(inside.any()):
            return Transition(euler, here.strength)
        ahead = flow.velocity(euler, torch.where(inside, u, t))
        heun = x + width * (here.total + ahead.total) / 2
        return Transition(torch.where(expand(inside, x), heun, euler), here.strength)
