"""The parts: rewards R(x), a likeness to one picture, and metrics, its mean over samples."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias, final

import attrs
import torch
from PIL.Image import Image
from torch import Tensor

from align import (
    Domain,
    HasReferenceImages,
    HasReferenceImplementation,
    Pins,
    Repeatable,
    Reward,
    RewardSpec,
    StreamedMetric,
    option,
)
from align.core.metric import State
from align.io.images import checked, opened

Likeness: TypeAlias = Callable[[Tensor], Tensor]
"""Likeness (B,) to the given picture, of pictures (B, 3, H, W) in [0, 1]; the graph is kept."""


@attrs.frozen(kw_only=True)
class LikenessOptions:
    """What a reward and a metric of the same likeness have in common."""

    kind: ClassVar[str]
    domain: ClassVar[Domain | None] = "image"

    picture: str = option("file of the picture that samples should be like", path=True)

    @abstractmethod
    def load(self, picture: Tensor) -> Likeness:
        """The likeness to a picture (3, H, W), on its device.

        Raises:
            PartError: a network's weights cannot be used.
        """

    def likeness(self, device: torch.device) -> Likeness:
        """The likeness to the file's picture; raises PartError where it cannot be read either."""
        return self.load(opened(self.picture).tensor.to(device))

    def mean(self, samples: Tensor) -> State:
        """The sum over pictures (B, 3, H, W), and their number."""
        with torch.no_grad():
            scores = _loaded(self, samples.device)(checked(samples, f"metric '{self.kind}'"))
        return {"sum": scores.double().sum(), "count": torch.tensor(float(len(samples))).double()}


@functools.lru_cache(maxsize=4)
def _loaded(spec: LikenessOptions, device: torch.device) -> Likeness:
    return spec.likeness(device)


@attrs.frozen(kw_only=True)
class LikenessReward(LikenessOptions, RewardSpec, Repeatable):
    """A likeness as a reward."""

    differentiable: ClassVar[bool] = True

    def build(self, device: torch.device) -> Reward:
        """The frozen network; raises PartError when its weights cannot be used."""
        return _Reward(self.likeness(device), opened(self.picture).tensor, self.kind)


@attrs.frozen(kw_only=True)
class LikenessMetric(LikenessOptions, StreamedMetric):
    """The mean of a likeness over samples."""

    needs_references: ClassVar[bool] = False

    def update(self, samples: Tensor) -> State:
        """The sum over pictures (B, C, H, W) in [0, 1]."""
        return self.mean(samples)

    def merge(self, states: Sequence[State]) -> State:
        """The sum over all pictures."""
        return {name: torch.stack([state[name] for state in states]).sum(0) for name in states[0]}

    def finish(self, state: State, references: State | None) -> dict[str, float]:
        """The mean."""
        return {self.kind: float(state["sum"] / state["count"])}


@final
@attrs.frozen(eq=False)
class _Reward(Reward, HasReferenceImages):
    likeness: Likeness
    picture: Tensor
    kind: str

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Likeness (B,), float32, of pictures (B, 3 or 1, H, W) in [0, 1]."""
        return self.likeness(checked(data, f"reward '{self.kind}'").float())

    def pictures(self) -> dict[str, Tensor]:
        """The given picture."""
        return {"like": self.picture}


@attrs.frozen(kw_only=True)
class _Dino(LikenessOptions):
    kind: ClassVar[str] = "dinov2"

    weights: str = option(
        "a folder, or an id of the Hugging Face hub", default="facebook/dinov2-base", path=True
    )
    revision: str = option("branch, tag or commit on the hub", default="main")
    offline: bool = option("whether nothing may be downloaded", default=False)
    match_pil: bool = option("whether resizing rounds to 8 bits where PIL does", default=False)

    def load(self, picture: Tensor) -> Likeness:
        """The cosine of class tokens."""
        from align_likeness.dino import likeness

        return likeness(self.weights, self.revision, self.offline, self.match_pil, picture)


@final
@attrs.frozen(kw_only=True)
class DinoLikeness(_Dino, LikenessReward):
    """Likeness of content to a picture, by DINOv2.

    R(x) = cos(f(x), f(picture)) for class tokens f: what is shown, and hardly where and how.

    Pictures are resized to 224 x 224, bicubically.

    Reference: DINOv2: Learning Robust Visual Features without Supervision, Oquab et al., 2023,
    arXiv:2304.07193, section 7.
    """

    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def files_read(self) -> tuple[Path, ...] | None:
        """The folder of the weights, and the picture."""
        from align.io.hub import all_stored

        return all_stored((self.weights, self.revision))


@final
@attrs.frozen(kw_only=True)
class DinoLikenessMetric(_Dino, LikenessMetric):
    """Mean likeness of content to a picture, by DINOv2.

    The mean of cos(f(x), f(picture)) over samples, for class tokens f.

    Reference: DINOv2: Learning Robust Visual Features without Supervision, Oquab et al., 2023,
    arXiv:2304.07193, section 7.
    """


@attrs.frozen(kw_only=True)
class _Lpips(LikenessOptions):
    kind: ClassVar[str] = "lpips"

    net: Literal["alex", "vgg"] = option(
        "network that sees: 'alex', for which LPIPS predicts people best, or 'vgg', smoother",
        default="alex",
    )
    weights: str = option(
        "file of torchvision's AlexNet or VGG-16 weights; '' is the released ones",
        default="",
        path=True,
    )
    offline: bool = option("whether nothing may be downloaded", default=False)

    def load(self, picture: Tensor) -> Likeness:
        """The negative distance."""
        from align_likeness.lpips import likeness

        return likeness(self.net, self.weights, self.offline, picture)


@final
@attrs.frozen(kw_only=True)
class Lpips(_Lpips, LikenessReward):
    """Likeness of appearance to a picture, by LPIPS.

    R(x) = −LPIPS(x, picture), version 0.1: 0 for the picture itself, and place by place.

    The picture is resized to the samples' size; sides below 64 are enlarged to 64.

    Reference: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, Zhang et
    al., 2018, arXiv:1801.03924, Eq. 1.
    """

    range: ClassVar[tuple[float, float]] = (-float("inf"), 0.0)

    def files_read(self) -> tuple[Path, ...] | None:
        """The weights' file, and the picture."""
        from align_likeness.lpips import file_of

        path = file_of(self.net, self.weights)
        return (path,) if path else None


@final
@attrs.frozen(kw_only=True)
class LpipsMetric(_Lpips, LikenessMetric):
    """Mean likeness of appearance to a picture, by LPIPS.

    The mean of −LPIPS(x, picture) over samples, version 0.1.

    Reference: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, Zhang et
    al., 2018, arXiv:1801.03924, Eq. 1.
    """


@attrs.frozen(kw_only=True)
class _DreamSim(LikenessOptions):
    kind: ClassVar[str] = "dreamsim"

    variant: Literal[
        "ensemble", "dino_vitb16", "dinov2_vitb14", "clip_vitb32", "open_clip_vitb32"
    ] = option("networks that see; 'ensemble' is three of them", default="ensemble")
    folder: str = option(
        "folder in which the package keeps its weights; it downloads what is missing",
        default="./models",
        path=True,
    )

    def load(self, picture: Tensor) -> Likeness:
        """The negative distance."""
        from align_likeness.dream import likeness

        return likeness(self.variant, self.folder, picture)


@final
@attrs.frozen(kw_only=True)
class DreamSim(_DreamSim, LikenessReward, HasReferenceImplementation):
    """Likeness of content and layout to a picture, by DreamSim.

    R(x) = −d(x, picture), d the cosine distance of features that were tuned to people's choices.

    The package dreamsim loads its networks, and must be installed: here, or where
    `kind = "isolated"` finds it. Pictures are resized to 224 x 224, bicubically.

    Reference: DreamSim: Learning New Dimensions of Human Visual Similarity using Synthetic Data, Fu
    et al., 2023, arXiv:2306.09344, section 4.
    """

    range: ClassVar[tuple[float, float]] = (-2.0, 0.0)
    needs_package: ClassVar[bool] = True
    pins: ClassVar[Pins | None] = Pins(
        packages=(
            "torch==2.14.1",
            "torchvision==0.29.1",
            "dreamsim==0.2.1",
            "open_clip_torch==3.3.0",
            "peft==0.21.2",
            "scipy==1.17.1",
            "timm==1.0.31",
            "transformers==5.23.0",
        )
    )

    def files_read(self) -> tuple[Path, ...] | None:
        """The package's folder, where it is there."""
        folder = Path(self.folder)
        return (folder,) if folder.is_dir() else None

    def judged(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """Scores (B,) of RGB pictures, resized by the package too, on the CPU.

        Raises:
            ImportError: the package is not installed, or does not import.
            PartError: it cannot load its networks, or the file is no picture.
        """
        from align_likeness.dream import judged

        return judged(self.variant, self.folder, opened(self.picture).pil, pictures)


@final
@attrs.frozen(kw_only=True)
class DreamSimMetric(_DreamSim, LikenessMetric):
    """Mean likeness of content and layout to a picture.

    The mean of −d(x, picture) over samples.

    Reference: DreamSim: Learning New Dimensions of Human Visual Similarity using Synthetic Data, Fu
    et al., 2023, arXiv:2306.09344, section 4.
    """
