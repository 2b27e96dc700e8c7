"""Renoising: to the denoiser, and back with fresh noise."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.dynamics import Dynamics, GuidedFlow, Transition, step_noise
from align.core.path import expand
from align.core.streams import Streams
from align.dynamics.clean import CleanStep


@final
@attrs.frozen(kw_only=True)
class Renoise(Dynamics):
    """All noise anew at every step: for estimator `search`.

    Steps by way of the denoiser, with fresh noise; estimator 'search' makes them climb a reward.

        x' = β_u D* + α_u ε,   ε ~ N(0, I).

    A step forgets the state but for its denoiser. It follows the law of the model only where the
    shift is that of one posterior draw, x1 − D; otherwise samples shrink towards means. Unguided
    steps are then not those of the model, and so none is offered as a density to weigh by.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Algorithm 4.
    """

    kind: ClassVar[str] = "renoise"
    has_density: ClassVar[bool] = False

    def step(
        self, flow: GuidedFlow, x: Tensor, t: Tensor, u: Tensor, streams: Streams
    ) -> Transition:
        """One step; costs one evaluation."""
        clean = CleanStep.of(flow, x, t, u, torch.zeros_like(t))
        noise = expand(clean.std, x) * step_noise(clean.std, x, streams)
        return Transition(clean.mean + clean.push + noise, clean.strength)
