"""Feature networks: what pictures are to a network that was trained to recognise things."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, final

import attrs
import torch
from torch import Tensor


@final
@attrs.frozen(eq=False, kw_only=True)
class PictureFeatures:
    """What a network makes of B pictures, a row each.

    Attributes:
        pooled: features (B, D), which most metrics compare.
        spatial: features that know where things are (B, S); None of a network that says none.
        logits: of K classes (B, K); None of a network that does not classify.
    """

    pooled: Tensor
    spatial: Tensor | None = None
    logits: Tensor | None = None


class FeatureExtractor(ABC):
    """A loaded feature network; row i of what it makes depends on picture i alone."""

    @abstractmethod
    def extract(self, pictures: Tensor) -> PictureFeatures:
        """The features of RGB pictures (B, 3, H, W) in [0, 1], on its device, without a gradient.

        The pictures are of 8 bits: multiples of 1/255. Their size is any; the network resizes
        them as it was trained, or as others do who publish numbers with it.
        """


@attrs.frozen(kw_only=True)
class FeatureNetwork(ABC):
    """A feature network as a recipe names it: options only, until `build` loads weights."""

    kind: ClassVar[str]

    @property
    def has_spatial(self) -> bool:
        """Whether there are spatial features."""
        return False

    @property
    def has_logits(self) -> bool:
        """Whether there are logits."""
        return False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of its logits in their order; none where they are not known."""
        return ()

    @abstractmethod
    def build(self, device: torch.device) -> FeatureExtractor:
        """Load the network; raises PartError when its weights cannot be used."""
