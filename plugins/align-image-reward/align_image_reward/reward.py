"""Reward: how people would rate a picture for its prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, final

import attrs
import torch
from torch import Tensor

from align import (
    Domain,
    HasReferenceImplementation,
    Pins,
    ReadsPrompts,
    Repeatable,
    Reward,
    RewardSpec,
    option,
    refuse_empty,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from tokenizers import BertWordPieceTokenizer

    from align_image_reward.network import Network

# Of the scores of the data that the package's authors standardised by.
MEAN: Final = 0.16717362830052426
STD: Final = 1.0333394966054072


@final
@attrs.frozen(kw_only=True)
class ImageReward(RewardSpec, HasReferenceImplementation, Repeatable):
    """What people prefer for a prompt, by ImageReward.

    ImageReward: how people would rate a picture for its prompt; most scores are in [-2, 2].

    The shortest side is resized to 224 pixels and the middle is cut out, so pixels beyond it have
    no gradient. Prompts are cut to 35 tokens. Scores are those of the package image-reward, which
    is not needed; with `match_pil` to a millionth, otherwise as near as resizing without rounding.

    Reference: ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation,
    Xu et al., 2023, arXiv:2304.05977, section 2.3.
    """

    kind: ClassVar[str] = "image_reward"
    pins: ClassVar[Pins | None] = Pins(
        packages=(
            "torch==2.14.1",
            "torchvision==0.29.1",
            "transformers==5.23.0",
            "accelerate==1.15.0",
            "datasets==5.2.0",
            "diffusers==0.42.1",
            "ftfy==6.3.1",
            "regex==2026.11.19",
            "setuptools==81.0.0",
            "timm==1.0.31",
            "tqdm==4.70.1",
        ),
        alone=("fairscale==0.4.13", "image-reward==1.5", "clip-anytorch==2.6.0"),
    )
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    needs_prompt: ClassVar[bool] = True

    weights: str = option(
        "ImageReward.pt, its folder, or an id of the hub; THUDM/ImageReward (1.8 GB) if empty",
        default="",
        path=True,
    )
    tokenizer: str = option(
        "BERT's vocab.txt, its folder, or an id of the hub; bert-base-uncased if empty",
        default="",
        path=True,
    )
    revision: str = option("branch, tag or commit of the weights on the hub", default="main")
    offline: bool = option("whether nothing may be downloaded", default=False)
    dtype: Literal["float32", "bfloat16"] = option(
        "precision of the transformers; the head is always in float32", default="float32"
    )
    match_pil: bool = option(
        "whether pictures are resized by PIL, as in the package; slower", default=False
    )
    recompute: bool = option(
        "whether layers run again in the backward pass: slower, less memory",
        default=False,
    )

    def build(self, device: torch.device) -> Scorer:
        """The frozen network and its tokenizer; raises PartError when one cannot be used."""
        from align.io.hub import located
        from align_image_reward.loading import WHO, network, tokenizer

        weights = self._located()
        words = located(
            self.tokenizer,
            "bert-base-uncased",
            ("vocab.txt",),
            who=WHO,
            option="tokenizer",
            offline=self.offline,
        )
        made = network(weights, getattr(torch, self.dtype), device)
        return Scorer(
            network=made,
            tokenizer=tokenizer(words, made.sizes.words),
            match_pil=self.match_pil,
            recompute=self.recompute,
        )

    def files_read(self) -> tuple[Path, ...] | None:
        """The weights, and the tokenizer's words."""
        from align.io.hub import all_stored

        words = (self.tokenizer or "bert-base-uncased", "main")
        return all_stored((str(self._located()), "main"), words)

    def judged(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """Scores (B,) by the package image-reward, on the CPU.

        Raises:
            ImportError: the package is not installed, or does not import.
            PartError: the weights are not there.
        """
        from align_image_reward.package import scores

        return scores(self._located(), pictures, prompts)

    def _located(self) -> Path:
        """The file of the weights; first in the place where the package image-reward has it."""
        from align.io.hub import located

        theirs = Path.home() / ".cache" / "ImageReward" / "ImageReward.pt"
        usual = not self.weights and self.revision == "main" and theirs.is_file()
        return located(
            str(theirs) if usual else self.weights,
            "THUDM/ImageReward",
            ("ImageReward.pt", "ImageReward.safetensors"),
            who="reward 'image_reward'",
            revision=self.revision,
            offline=self.offline,
        )


@final
@attrs.frozen(kw_only=True, eq=False)
class Scorer(Reward, ReadsPrompts):
    """(head − mean) / std, the score of a network for pictures and prompts."""

    network: Network
    tokenizer: BertWordPieceTokenizer
    match_pil: bool = False
    recompute: bool = False

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,), float32, of pictures (B, 3, H, W) in [0, 1]; the graph is kept.

        Raises:
            ContractError: the data are not pictures in [0, 1].
            PromptError: a prompt is empty.
        """
        from align.io.images import checked, preprocess, standardised

        refuse_empty(prompts, "reward 'image_reward'")
        pictures = checked(data, "reward 'image_reward'").float()
        pixels = standardised(
            preprocess(
                pictures, self.network.sizes.side, "shortest side, centre crop", self.match_pil
            )
        )
        read = self.tokenizer.encode_batch(list(prompts))
        ids = torch.tensor([one.ids for one in read], device=data.device)
        seen = torch.tensor([one.attention_mask for one in read], device=data.device).bool()
        head: Tensor = self.network(pixels, ids, seen, self.recompute)
        return (head - MEAN) / STD

    def left_out(self, prompt: str) -> str:
        """How many tokens of a longer prompt count."""
        read = self.tokenizer.encode(prompt)
        cut = sum(sum(rest.attention_mask) - 2 for rest in read.overflowing)
        counts = sum(read.attention_mask) - 2
        return f"has {counts + cut} tokens, of which the first {counts} count" if cut else ""
