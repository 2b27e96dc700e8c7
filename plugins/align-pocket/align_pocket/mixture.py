"""A mixture of classes as a reward: samples shall be of several animals, in shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import attrs
import torch
from torch import Tensor, nn

from align import (
    ConfigError,
    ConfigErrors,
    Domain,
    Repeatable,
    Reward,
    RewardSpec,
    did_you_mean,
    option,
)
from align_pocket.judges import CLASSES, load, prepared


def _shares(_: Any, attribute: attrs.Attribute[Any], value: Mapping[str, float]) -> None:
    if not value:
        raise ValueError(f"'{attribute.name}' needs at least one animal, such as {{ cat = 1.0 }}")
    errors = []
    for name, share in value.items():
        if name not in CLASSES:
            errors.append(ConfigError((name,), f"no such animal; {did_you_mean(name, CLASSES)}"))
        elif share <= 0:
            errors.append(ConfigError((name,), f"a share must be greater than 0, got {share:g}"))
    if errors:
        raise ConfigErrors(errors)


@final
@attrs.frozen(kw_only=True)
class SilhouetteMixture(RewardSpec, Repeatable):
    """Several animals of the silhouettes, in shares.

    log Σ_i w_i p(y_i | x), with p by a small classifier and shares w that are made to sum to 1.

    Where the classifier is sure, p e^r has the animals in shares ∝ w_i p(y_i), p(y_i) being the
    model's own share; where the model has all animals alike, in shares w.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 7.1.2.
    """

    kind: ClassVar[str] = "silhouette_mixture"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (-float("inf"), 0.0)

    shares: Mapping[str, float] = option("share w_i of each animal", check=_shares)
    network: Literal["conv", "patch"] = option("architecture of the classifier", default="conv")

    def build(self, device: torch.device) -> Reward:
        """Load the classifier that ships with the plugin."""
        weights = torch.tensor([self.shares.get(name, 0.0) for name in CLASSES], device=device)
        return _SilhouetteMixture(load(self.network, device), (weights / weights.sum()).log())


@final
@attrs.frozen(eq=False)
class _SilhouetteMixture(Reward):
    judge: nn.Module
    log_weights: Tensor

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """log Σ_i w_i p(y_i | x), (B,), of pictures (B, C, H, W) in [0, 1]."""
        logits: Tensor = self.judge(prepared(data)).float()
        return torch.logsumexp(logits.log_softmax(1) + self.log_weights, 1)
