"""The class probability of a silhouette."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.core.model import Domain
from align.core.option import option
from align.core.reward import Reward, RewardSpec
from align_pocket.judges import CLASSES, load, prepared


def _known(_: Any, attribute: attrs.Attribute[str], value: str) -> None:
    if value not in CLASSES:
        known = ", ".join(f"'{name}'" for name in CLASSES)
        raise ValueError(f"'{attribute.name}' must be one of {known}, got '{value}'")


@final
@attrs.frozen(kw_only=True)
class SilhouetteClass(RewardSpec):
    """Log-probability that a small classifier gives a class of the silhouettes.

    Two classifiers of different build are there, so that one can be optimised and the other held
    out.
    """

    kind: ClassVar[str] = "silhouette_class"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (-float("inf"), 0.0)

    label: str = option("the animal", check=_known)
    network: Literal["conv", "patch"] = option("which classifier", default="conv")

    def build(self, device: torch.device) -> Reward:
        """Load the classifier that ships with the plugin."""
        return _SilhouetteClass(load(self.network, device), CLASSES.index(self.label))


@final
@attrs.frozen(eq=False)
class _SilhouetteClass(Reward):
    judge: nn.Module
    label: int

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Log-probability (B,) of the class for pictures (B, C, H, W) in [0, 1], in nats."""
        return F.log_softmax(self.judge(prepared(data)).float(), 1)[:, self.label]
