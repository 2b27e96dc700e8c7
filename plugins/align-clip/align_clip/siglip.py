"""Reward: how alike a SigLIP model finds a picture and its prompt."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align import (
    Domain,
    PartError,
    ReadsPrompts,
    Repeatable,
    Reward,
    RewardSpec,
    Streams,
    option,
    refuse_empty,
)
from align.io.hub import all_stored, located
from align.io.images import checked, preprocess, standardised

WHO: Final = "reward 'siglip'"
REPO: Final = "google/siglip2-so400m-patch14-384"
_FILES: Final = (
    ("config.json",),
    ("preprocessor_config.json",),
    ("tokenizer.json",),
    ("model.safetensors",),
)
_REMEMBERED: Final = 4096


@final
@attrs.frozen(kw_only=True)
class Siglip(RewardSpec, Repeatable):
    """How well a picture fits its prompt, by SigLIP.

    R(x) = the cosine of picture and prompt, or the model's logit e^s cos + b.

    Pictures are squashed to the network's size, as the models' own processor does; SigLIP and
    SigLIP 2 of a fixed resolution are known, from a folder as transformers saves it. Their texts
    have 64 tokens, of a tokenizer with more words than CLIP's; models with more places read more.

    Reference: Sigmoid Loss for Language Image Pre-Training, Zhai et al., 2023, arXiv:2303.15343,
    section 3.2.
    """

    kind: ClassVar[str] = "siglip"
    differentiable: ClassVar[bool] = True
    domain: ClassVar[Domain | None] = "image"
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    needs_prompt: ClassVar[bool] = True

    weights: str = option("a folder, or an id of the Hugging Face hub", default=REPO, path=True)
    scale: Literal["cosine", "logit"] = option(
        "of the score: the cosine, or the logit of the model", default="cosine"
    )
    dtype: Literal["float32", "bfloat16"] = option(
        "precision of the towers; what comes after them is in float32", default="float32"
    )
    match_pil: bool = option("whether resizing rounds to 8 bits where PIL does", default=False)
    revision: str = option("branch, tag or commit on the hub", default="main")
    offline: bool = option("whether nothing may be downloaded", default=False)

    def files_read(self) -> tuple[Path, ...] | None:
        """The folder, or what the hub's cache has of the repository."""
        return all_stored((self.weights, self.revision))

    def build(self, device: torch.device) -> Reward:
        """The frozen model; raises PartError when its weights cannot be used."""
        config, about, words, _ = (
            located(
                self.weights, REPO, files, who=WHO, revision=self.revision, offline=self.offline
            )
            for files in _FILES
        )
        network = _network(config.parent).to(device, getattr(torch, self.dtype))
        mean, std, side = _prepared(about, network)
        texts = _Texts(network, _tokenizer(words))
        return _Siglip(
            network=network,
            texts=texts,
            known=functools.lru_cache(_REMEMBERED)(texts.features),
            view=functools.partial(_seen, side, self.match_pil, mean, std),
            scale=self.scale,
        )


def _network(folder: Path) -> Any:
    from transformers import AutoModel

    try:
        # What is not in the file would be drawn at random; then the network is refused.
        network, said = Streams(0, (), ("siglip",)).initialise(
            lambda: AutoModel.from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
        )
    except Exception as error:  # many kinds, for everything from a wrong key to a broken file
        first = next(iter(str(error).strip().splitlines()), "")
        text = f"cannot load '{folder}': {type(error).__name__}: {first}"
        raise PartError(f"{WHO}: weights: {text}") from error
    kind = network.config.model_type
    if kind != "siglip":
        text = f"'{folder}' is a '{kind}', not a SigLIP of a fixed resolution"
        raise PartError(f"{WHO}: weights: {text}; give another")
    if missing := sorted(map(str, said["missing_keys"])):
        text = f"'{folder}' lacks {len(missing)} weights, such as '{missing[0]}'"
        raise PartError(f"{WHO}: weights: {text}; download it again")
    return network.requires_grad_(False).eval()


def _prepared(file: Path, network: Any) -> tuple[Any, Any, int]:
    """Mean, deviation and side of what the network sees, as its configuration says."""
    import json

    try:
        said = json.loads(file.read_text("utf-8"))
        side = int(network.config.vision_config.image_size)
        mean, std = tuple(said["image_mean"]), tuple(said["image_std"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        text = f"'{file}' is no configuration of a processor ({error})"
        raise PartError(f"{WHO}: weights: {text}") from error
    return mean, std, side


def _tokenizer(file: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        made = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        text = str(error).partition("\n")[0]
        raise PartError(f"{WHO}: weights: '{file}' is no tokenizer.json: {text}") from error
    made.no_truncation()
    made.no_padding()
    return made


def _seen(side: int, match_pil: bool, mean: Any, std: Any, pictures: Tensor) -> Tensor:
    return standardised(preprocess(pictures, side, "squash", match_pil), mean, std)


def _unit(features: Any) -> Tensor:
    raw: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return F.normalize(raw.float(), dim=-1)


@final
@attrs.frozen(eq=False)
class _Texts:
    network: Any
    tokenizer: Any

    @property
    def limit(self) -> int:
        """Tokens that the tower reads."""
        return int(self.network.config.text_config.max_position_embeddings)

    @property
    def padding(self) -> int:
        """The token that fills a shorter text: the models were trained with full lengths."""
        found = self.tokenizer.token_to_id("<pad>")
        return int(self.network.config.text_config.pad_token_id if found is None else found)

    def tokens(self, prompt: str) -> list[int]:
        """All tokens of a prompt, without those that fill."""
        ids: list[int] = self.tokenizer.encode(prompt.lower()).ids
        return ids

    @torch.no_grad()
    def features(self, prompt: str) -> Tensor:
        """Unit features (D,) of the tokens that the tower reads."""
        tokens = self.tokens(prompt)[: self.limit]
        tokens += [self.padding] * (self.limit - len(tokens))
        ids = torch.tensor([tokens], device=self.network.device)
        with torch.autocast(ids.device.type, enabled=False):
            return _unit(self.network.get_text_features(input_ids=ids))[0]


@final
@attrs.frozen(kw_only=True, eq=False)
class _Siglip(Reward, ReadsPrompts):
    network: nn.Module
    texts: _Texts
    known: Callable[[str], Tensor]
    view: Callable[[Tensor], Tensor]
    scale: Literal["cosine", "logit"]

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,), float32, of pictures (B, 3 or 1, H, W) in [0, 1].

        Raises:
            ContractError: the data are no such pictures.
            PromptError: a prompt is empty.
        """
        refuse_empty(prompts, WHO)
        network: Any = self.network
        with torch.autocast(data.device.type, enabled=False):
            pixels = self.view(checked(data, WHO).float()).to(network.dtype)
            seen = _unit(network.get_image_features(pixel_values=pixels))
            text = torch.stack([self.known(prompt) for prompt in prompts]).to(seen.device)
            cosine = (seen * text).sum(-1)
            if self.scale == "cosine":
                return cosine
            logit: Tensor = network.logit_scale.float().exp() * cosine + network.logit_bias.float()
            return logit[0] if logit.dim() > 1 else logit

    def left_out(self, prompt: str) -> str:
        """How many tokens of a longer prompt count."""
        has = len(self.texts.tokens(prompt))
        limit = self.texts.limit
        return f"has {has} tokens, of which the first {limit} count" if has > limit else ""
