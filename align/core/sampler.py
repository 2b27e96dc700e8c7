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

    A subclass states a property either as a class attribute, or as a property where it depends on
    the options.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def differentiable(self) -> bool:
        """Whether the draws carry a gradient back to `noisy.x`."""

    @property
    def point(self) -> bool:
        """Whether every draw is the denoiser D_t(x), so that one draw is enough."""
        return False

    @property
    @abstractmethod
    def exact_for(self) -> str:
        """The models for which the draws follow the posterior exactly, in words."""

    @property
    @abstractmethod
    def needs(self) -> type | None:
        """The capability that the model must have, or None."""

    @abstractmethod
    def sample(
        self, model: FlowModel, noisy: NoisyState, *, draws: int, streams: Streams
    ) -> Tensor:
        """Draws (N, B, *S) of x1 for N = `draws` and the B states of `noisy`."""
