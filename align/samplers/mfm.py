"""Posterior samples in one network call, by a meta flow map."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.model import FlowModel, NoisyState, PosteriorMap
from align.core.option import at_least, option
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams


@final
@attrs.frozen(kw_only=True)
class MetaFlowMap(PosteriorSampler):
    """Models with a meta flow map: a draw in one call.

    x1 = X_{0,1}(ε; t, x) with ε ~ N(0, I), taken as K jumps of equal length.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 4.
    """

    kind: ClassVar[str] = "mfm"
    differentiable: ClassVar[bool] = True
    exact_for: ClassVar[str] = "an exact posterior map"
    needs: ClassVar[type | None] = PosteriorMap

    steps: int = option("jumps from noise to a draw", default=1, check=at_least(1), grows="calls")

    def sample(
        self, model: FlowModel, noisy: NoisyState, *, draws: int, streams: Streams
    ) -> Tensor:
        """Draws (N, B, *S) of x1; costs N · steps network calls a state."""
        posterior = model.capability(PosteriorMap)
        if posterior is None:
            raise PartError("sampler 'mfm' needs a model with a posterior map; use 'glass'")
        noise = streams.fold_in("posterior").normal(model.shape, draws=draws)
        y = noise.to(noisy.x).flatten(0, 1)
        noisy = noisy.tile(draws)
        for k in range(self.steps):
            s = torch.full_like(noisy.t, k / self.steps)
            u = torch.full_like(noisy.t, (k + 1) / self.steps)
            y = posterior.posterior_jump(y, s, u, noisy)
        return y.reshape(draws, -1, *model.shape)
