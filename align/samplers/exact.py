"""Exact posterior samples, from models that know their posterior: a yardstick."""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.estimator import ClosedForm
from align.core.model import FlowModel, NoisyState
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams


@final
@attrs.frozen(kw_only=True)
class ExactPosterior(PosteriorSampler):
    """Mixtures alone: exact draws, to compare others with.

    Independent exact draws x1 ~ p(x1 | x_t), without a gradient.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 7.1.1 (the
    posterior of a mixture).
    """

    kind: ClassVar[str] = "exact"
    differentiable: ClassVar[bool] = False
    exact_for: ClassVar[str] = "every model that knows its posterior"
    needs: ClassVar[type | None] = ClosedForm

    @torch.no_grad()
    def sample(
        self, model: FlowModel, noisy: NoisyState, *, draws: int, streams: Streams
    ) -> Tensor:
        """Draws (N, B, *S) of x1; costs no network call."""
        exact = model.capability(ClosedForm)
        if exact is None:
            raise PartError("sampler 'exact' needs a model with an exact posterior, like 'mixture'")
        return exact.draw_posterior(noisy, draws, streams)
