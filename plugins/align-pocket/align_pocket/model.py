"""The embedded model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path
from typing import ClassVar, Literal, final

import attrs
import torch

from align import (
    Domain,
    FlowMap,
    FlowModel,
    ModelSpec,
    PosteriorMap,
    Repeatable,
    option,
    prompts_option,
)
from align.models.network import load
from align.training.weights import about


@final
@attrs.frozen(kw_only=True)
class Pocket(ModelSpec, Repeatable):
    """Small pictures of animals; the weights are inside.

    A latent flow and its meta flow map.

    Silhouettes: 28x28, ten animals (bear, bird, cat, cow, dog, elephant, giraffe, horse, sheep,
    zebra). Photographs: 64x64, 29 animals of ImageNet, from "tabby cat" to "albatross", of which
    bison and king penguins are the clearest, at guidance 2.5; most are not to be recognised. How
    they were trained, and how good they are, is in the plugin's MODEL_CARD.md.
    """

    kind: ClassVar[str] = "pocket"

    variant: Literal["silhouettes", "photographs"] = option(
        "pictures that the model makes", default="silhouettes"
    )
    prompt: str = option("names the animal of every sample; empty for any", default="")
    prompts: str = prompts_option()
    guidance: float = option("classifier-free guidance scale of the flow; 1 is none", default=1.0)

    @property
    def domain(self) -> Domain:
        """Pictures."""
        return "image"

    @property
    def provides(self) -> frozenset[type]:
        """A meta flow map, and so a flow map."""
        return frozenset({FlowMap, PosteriorMap})

    @property
    def known_classes(self) -> Sequence[str]:
        """The animals, as the weights say."""
        with self._file() as file:
            return tuple(about(file).get("classes", ()))

    def build(self, device: torch.device) -> FlowModel:
        """Load the weights that ship with the plugin."""
        with self._file() as file:
            return load(file, device, self.guidance)

    def _file(self) -> AbstractContextManager[Path]:
        return as_file(files("align_pocket") / "weights" / f"{self.variant}.safetensors")
