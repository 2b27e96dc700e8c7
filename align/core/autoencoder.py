"""Autoencoders of pictures as the rest of `align` sees them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import attrs
from torch import nn


@attrs.frozen(kw_only=True)
class AutoencoderSpec(ABC):
    """An autoencoder's architecture as a recipe names it: options only, until `layers` makes it.

    A weights file names the `kind` and holds the options as JSON, so options are plain values:
    numbers, strings, booleans, tuples of those.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def colours(self) -> int:
        """Channels C of a picture: 1 or 3."""

    @property
    @abstractmethod
    def latents(self) -> int:
        """Channels L of a latent."""

    @property
    def weights_at_least(self) -> int:
        """A lower bound of the number of weights, known from the options; 0 if nobody counted."""
        return 0

    @abstractmethod
    def layers(self) -> tuple[nn.Module, nn.Module]:
        """An untrained encoder and decoder; weights are drawn from torch's global generator.

        The encoder takes pictures (B, C, H, W) from -1 to 1 to latents (B, L, h, w), and the
        decoder takes latents back. The scale of latents is not their concern.
        """
