"""DDIM: to the denoiser, and back with the noise that the state holds."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.dynamics import Dynamics, GuidedFlow, Transition
from align.core.streams import Streams
from align.dynamics.clean import CleanStep


@final
@attrs.frozen(kw_only=True)
class DDIM(Dynamics):
    """No fresh noise: by way of the denoiser.

    Steps by way of the denoiser, which keep the noise that the state holds.

        x' = β_u D* + α_u ε̂*,   ε̂* = (x − β_t D*)/α_t.

    On the linear path these are the Euler steps of the ODE.

    Reference: Denoising diffusion implicit models, Song, Meng, Ermon, 2020, arXiv:2010.02502,
    Eq. 12.
    """

    kind: ClassVar[str] = "ddim"
    has_density: ClassVar[bool] = False

    def step(
        self, flow: GuidedFlow, x: Tensor, t: Tensor, u: Tensor, streams: Streams
    ) -> Transition:
        """One step; costs one evaluation."""
        clean = CleanStep.of(flow, x, t, u, torch.ones_like(t))
        return Transition(clean.mean + clean.push, clean.strength)
