"""The class probability of a silhouette."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align import (
    Domain,
    ReadsPrompts,
    Repeatable,
    Reward,
    RewardSpec,
    match_class,
    option,
    others_named,
)
from align_pocket.judges import CLASSES, load, prepared


def _known(_: Any, attribute: attrs.Attribute[str], value: str) -> None:
    if value and value not in CLASSES:
        known = ", ".join(f"'{name}'" for name in CLASSES)
        raise ValueError(f"'{attribute.name}' must be one of {known}, got '{value}'")


@final
@attrs.frozen(kw_only=True)
class SilhouetteClass(RewardSpec, Repeatable):
    """An animal of the silhouettes, by a small classifier.

    How sure a small classifier is that a picture shows an animal of the silhouettes, in nats.

    "log_odds" is log p / (1 − p), which goes on growing where "log_probability", log p, is nearly
    zero for every good picture. Two classifiers of different build are there, so that one can be
    optimised and the other held out.
    """

    kind: ClassVar[str] = "silhouette_class"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))

    label: str = option("the animal; none: the one that the prompt names", default="", check=_known)
    network: Literal["conv", "patch"] = option("architecture of the classifier", default="conv")
    scale: Literal["log_odds", "log_probability"] = option("scale of the score", default="log_odds")

    @property
    def needs_prompt(self) -> bool:
        """Where no animal is named."""
        return not self.label

    def check_prompt(self, prompt: str) -> None:
        """Raise PromptError for a prompt that should name an animal and does not."""
        match_class(self.label or prompt, CLASSES)

    def build(self, device: torch.device) -> Reward:
        """Load the classifier that ships with the plugin."""
        return _SilhouetteClass(load(self.network, device), self.label, self.scale)


@final
@attrs.frozen(eq=False)
class _SilhouetteClass(Reward, ReadsPrompts):
    judge: nn.Module
    label: str
    scale: str

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Log-odds or log-probability (B,) of the class for pictures (B, C, H, W) in [0, 1].

        Raises:
            PromptError: a prompt that should name an animal does not.
        """
        logits: Tensor = self.judge(prepared(data)).float()
        numbers = [match_class(self.label or prompt, CLASSES) for prompt in prompts]
        label = torch.tensor(numbers, device=logits.device)[:, None]
        if self.scale == "log_probability":
            return F.log_softmax(logits, 1).gather(1, label)[:, 0]
        others = logits.scatter(1, label, -torch.inf)
        return logits.gather(1, label)[:, 0] - others.logsumexp(1)

    def left_out(self, prompt: str) -> str:
        """The animals that a prompt names beside the one that counts."""
        return "" if self.label else others_named(prompt, CLASSES)
