"""Reward `imscore`: a scorer of the package imscore, as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, TypeAlias, final

import attrs
import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from align import (
    ContractError,
    Domain,
    HasReferenceImplementation,
    PartError,
    Pins,
    Repeatable,
    Reward,
    RewardSpec,
    option,
    refuse_empty,
)
from align.io.hub import all_stored
from align.io.images import checked

WHO: Final = "reward 'imscore'"
Scorer: TypeAlias = Literal[
    "pickscore",
    "mps",
    "hpsv2",
    "image_reward",
    "cycle_reward",
    "vqa_score",
    "eval_muse",
    "siglip_preference",
    "clip_preference",
    "laion_aesthetic",
    "shadow_aesthetic",
]
_CLASSES: Final[Mapping[str, tuple[str, str, str]]] = MappingProxyType(
    {
        "pickscore": ("pickscore", "PickScorer", "RE-N-Y/pickscore"),
        "mps": ("mps", "MPS", "RE-N-Y/mpsv1"),
        "hpsv2": ("hps", "HPSv2", "RE-N-Y/hpsv21"),
        "image_reward": ("imreward", "ImageReward", "RE-N-Y/ImageReward"),
        "cycle_reward": ("cyclereward", "CycleReward", "NagaSaiAbhinay/CycleReward-Combo"),
        "vqa_score": ("vqascore", "VQAScore", "RE-N-Y/clip-t5-xxl"),
        "eval_muse": ("evalmuse", "EvalMuse", "RE-N-Y/evalmuse"),
        "siglip_preference": ("preference", "SiglipPreferenceScorer", "RE-N-Y/pickscore-siglip"),
        "clip_preference": ("preference", "CLIPPreferenceScorer", "RE-N-Y/pickscore-clip"),
        "laion_aesthetic": ("aesthetic", "LAIONAestheticScorer", "RE-N-Y/laion-aesthetic"),
        "shadow_aesthetic": ("aesthetic", "ShadowAesthetic", "RE-N-Y/aesthetic-shadow-v2"),
    }
)
"""Module and class of each scorer, and the hub's id of its weights."""
_WITHOUT_PROMPT: Final = frozenset({"laion_aesthetic", "shadow_aesthetic"})


@final
@attrs.frozen(kw_only=True)
class Imscore(RewardSpec, HasReferenceImplementation, Repeatable):
    """A scorer of imscore.

    R(x), what one of the differentiable scorers of the package imscore says, on its own scale.

    The package's authors have put weights of others up again, and resize tensors, so that scores
    differ from the originals' by up to two percent. Where a plugin of `align` has the same model
    (`hpsv2`, `image_reward`, `pickscore`), take that. The package needs torchvision and a
    transformers before 5: install it where `kind = "isolated"` finds it.

    Reference: imscore 0.0.11, https://github.com/RE-N-Y/imscore, MIT.
    """

    kind: ClassVar[str] = "imscore"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    needs_package: ClassVar[bool] = True
    pins: ClassVar[Pins | None] = Pins(
        packages=(
            "torch==2.14.1",
            "torchvision==0.29.1",
            "transformers==4.57.6",
            "einops==0.8.1",
            "open_clip_torch==3.3.0",
        ),
        alone=("imscore==0.0.11",),
    )

    scorer: Scorer = option("which of the package's scorers")
    weights: str = option(
        "a folder as the package saves it, or an id of the hub; '' is the released ones",
        default="",
        path=True,
    )

    @property
    def needs_prompt(self) -> bool:
        """All but those of beauty alone."""
        return self.scorer not in _WITHOUT_PROMPT

    def files_read(self) -> tuple[Path, ...] | None:
        """The folder, or what the hub's cache has of the repository."""
        return all_stored((self.weights or _CLASSES[self.scorer][2], "main"))

    def build(self, device: torch.device) -> Reward:
        """The frozen scorer; raises PartError where the package or its weights are missing."""
        module, name, repository = _CLASSES[self.scorer]
        try:
            made = getattr(import_module(f"imscore.{module}.model"), name)
        except (ImportError, AttributeError, RuntimeError) as error:
            # A torchvision of another build than torch raises the last.
            first = next(iter(str(error).splitlines()), type(error).__name__)
            cure = "`align verify imscore --make-venv FOLDER` makes an environment that has it"
            raise PartError(f"{WHO}: imscore cannot be imported ({first}); {cure}") from error
        given = Path(self.weights).expanduser()
        place = str(given) if given.is_dir() else (self.weights or repository)
        try:
            network = made.from_pretrained(place)
        except Exception as error:  # of the hub, of the disk and of damaged files
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise PartError(f"{WHO}: weights: cannot load '{place}': {first}") from error
        return _Imscore(network.requires_grad_(False).eval().to(device), self.needs_prompt)

    def judged(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """Scores (B,) of RGB pictures by the package, one by one, on the CPU.

        Raises:
            ImportError: the package is not installed, or does not import.
            PartError: the weights are not there.
        """
        import_module("imscore")
        network = self.build(torch.device("cpu"))
        tensors = [torch.from_numpy(np.array(p)).permute(2, 0, 1)[None] / 255 for p in pictures]
        with torch.no_grad():
            each = [network.score(x, [p]) for x, p in zip(tensors, prompts, strict=True)]
        return torch.cat(each)


@final
@attrs.frozen(eq=False)
class _Imscore(Reward):
    network: Any
    needs_prompt: bool

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,), float32, of pictures (B, 3 or 1, H, W) in [0, 1]; the graph is kept.

        Raises:
            ContractError: the data are no pictures, or the package returned something else.
            PromptError: a prompt is empty, and the scorer needs one.
        """
        if self.needs_prompt:
            refuse_empty(prompts, WHO)
        score = self.network.score(checked(data, WHO).float().clamp(0, 1), list(prompts))
        if not isinstance(score, Tensor) or score.numel() != len(data):
            raise ContractError(f"{WHO}: the package returned no score of each picture")
        return score.reshape(len(data)).float()
