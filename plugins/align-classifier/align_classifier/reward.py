"""Reward: how sure an image classifier is of a class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align import Domain, PartError, Repeatable, Reward, RewardSpec, option
from align.io.hub import all_stored
from align.io.images import checked
from align_classifier.known import WHO, Known, numbered

Score: TypeAlias = Literal["log_probability", "log_odds", "probability"]


def _named(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    if not value.strip():
        raise ValueError(f"'{attribute.name}' must not be empty")


@final
@attrs.frozen(kw_only=True)
class Classifier(RewardSpec, Repeatable):
    """A class, by a classifier of your choice.

    R(x) = log p(label | x), log p / (1 − p), or p itself, by a classifier of your choice.

    Pictures are prepared as the model's own configuration says, by resizing that keeps the
    gradient. Log-odds go on rising where a probability is all but 1, and then have the better
    gradient. Optimise one classifier and hold another out: none can judge what it was optimised
    for.
    """

    kind: ClassVar[str] = "classifier"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"

    model: str = option(
        "a folder, or an id of the Hugging Face hub; of torchvision the name of an architecture",
        check=_named,
        path=True,
    )
    library: Literal["transformers", "timm", "torchvision"] = option(
        "library that loads the model", default="transformers"
    )
    weights: str = option(
        "file of weights of torchvision's architecture, such as your own; '' is the released ones",
        default="",
        path=True,
    )
    label: str = option(
        "a class: its name in the model's configuration, or its number", check=_named
    )
    score: Score = option(
        "score of a picture: log p, log p / (1 − p), or p of the label", default="log_probability"
    )
    revision: str = option(
        "branch, tag or commit of the model on the hub; of torchvision the name of its weights,"
        " like 'IMAGENET1K_V2'",
        default="main",
    )
    offline: bool = option("whether nothing may be downloaded", default=False)

    def __attrs_post_init__(self) -> None:
        """Refuse weights for a library that has them in the model's folder."""
        if self.weights and self.library != "torchvision":
            cure = "give 'model' the folder that holds them"
            raise ValueError(f"'weights' is for library 'torchvision' alone; {cure}")

    @property
    def range(self) -> tuple[float, float]:
        """Bounds of R."""
        match self.score:
            case "log_probability":
                return (-math.inf, 0.0)
            case "log_odds":
                return (-math.inf, math.inf)
            case "probability":
                return (0.0, 1.0)

    def files_read(self) -> tuple[Path, ...] | None:
        """The model's folder, or what the hub's cache has of its repository."""
        if self.library == "torchvision":
            from align_classifier.of_torchvision import file_of

            path = Path(self.weights) if self.weights else file_of(self.model, self.revision)
            return (path,) if path else None
        return all_stored((self.model, self.revision))

    def build(self, device: torch.device) -> Reward:
        """The frozen classifier, in float32.

        Raises:
            PartError: it cannot be found, does not fit, or knows no such class.
        """
        known = self._known()
        index = numbered(self.label, known.labels, known.classes)
        if known.classes < 2:
            raise PartError(f"{WHO}: model: '{self.model}' has one class only; there is no choice")
        known.network.requires_grad_(False).eval().to(device, torch.float32)
        return _Classifier(known, index, self.score)

    def _known(self) -> Known:
        if self.library == "torchvision":
            from align_classifier import of_torchvision

            return of_torchvision.load(self.model, self.weights, self.revision, self.offline)
        if self.library == "timm":
            from align_classifier.of_timm import load
        else:
            from align_classifier.of_transformers import load
        return load(self.model, self.revision, self.offline)


@final
@attrs.frozen(eq=False)
class _Classifier(Reward):
    known: Known
    index: int
    how: Score

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """R (B,) of pictures (B, 3, H, W) or (B, 1, H, W) in [0, 1].

        Raises:
            ContractError: the data are not pictures.
        """
        pictures = self.known.preprocessing.apply(checked(data, WHO).float())
        found = self.known.network(pictures)
        logits = (found if isinstance(found, Tensor) else found.logits).float()
        log_probability = torch.log_softmax(logits, -1)[:, self.index]
        match self.how:
            case "log_probability":
                return log_probability
            case "probability":
                return log_probability.exp()
            case "log_odds":
                others = [k for k in range(logits.shape[1]) if k != self.index]
                return logits[:, self.index] - logits[:, others].logsumexp(-1)
