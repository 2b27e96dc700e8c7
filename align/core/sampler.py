"""Posterior samplers: clean data given a noisy state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import attrs
from torch import Tensor

from align.core.attribution import attributed, seen
from align.core.checks import checks, count_not_finite
from align.core.errors import AlignError, ContractError, NotFiniteError
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

    def notes(self, model: FlowModel) -> tuple[str, ...]:
        """What must be said beside results of draws from this model, a sentence each."""
        return ()


def draw_posterior(
    sampler: PosteriorSampler, model: FlowModel, noisy: NoisyState, *, draws: int, streams: Streams
) -> Tensor:
    """What `sampler.sample` draws, (N, B, *S), checked; the sampler sees a copy of `noisy`.

    Raises:
        ContractError: the draws have another shape or type than the states, or are not finite.
        PartError: the sampler raised something else than a message to the user.
    """
    who = f"sampler '{sampler.kind}'"
    with attributed(who):
        x1 = sampler.sample(model, noisy.copy(), draws=draws, streams=streams)
    shape = (draws, *noisy.x.shape)
    if not isinstance(x1, Tensor) or x1.shape != shape or x1.dtype != noisy.x.dtype:
        raise ContractError(f"{who} returned {seen(x1)}, expected {shape} {noisy.x.dtype}")

    def error(numbers: Sequence[float]) -> AlignError | None:
        text = f"{who} returned {int(numbers[0])} numbers that are not finite"
        return NotFiniteError(text) if numbers[0] else None

    checks().add(error, count_not_finite(x1))
    return x1
