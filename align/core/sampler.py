"""Posterior samplers: clean data given a noisy state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import attrs
from torch import Tensor

from align.core.model import FlowModel, NoisyState
from align.core.streams import Streams


@attrs.frozen(kw_only=True)
class PosteriorSampler(ABC):
    """Draws x1 ~ p(x1 | x_t), exactly or nearly.

    Attributes:
        differentiable: whether the draws carry a gradient back to `noisy.x`.
        point: whether every draw is the denoiser D_t(x); it is then asked for one draw only.
        exact_for: for which models the draws follow the posterior exactly, in words.
        needs: the capability a model must have, or None.
    """

    kind: ClassVar[str]
    differentiable: ClassVar[bool]
    point: ClassVar[bool] = False
    exact_for: ClassVar[str]
    needs: ClassVar[type | None]

    @abstractmethod
    def sample(
        self, model: FlowModel, noisy: NoisyState, *, draws: int, streams: Streams
    ) -> Tensor:
        """Draws (N, B, *S) of x1 for N = `draws` and the B states of `noisy`."""
