"""Scores of CLIP models: how alike a picture and its prompt are.

Reference: Learning Transferable Visual Models From Natural Language Supervision, Radford et al.,
2021, arXiv:2103.00020, section 2.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from align import ContractError, PartError, ReadsPrompts, Reward, refuse_empty
from align.io.images import Crop, Geometry, checked, preprocess, standardised
from align_clip.tokens import END

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import CLIPModel

REMEMBERED: Final = 4096
"""Prompts whose features are remembered."""


@final
@attrs.frozen(kw_only=True)
class View:
    """How a package brings a picture to the size that its network sees."""

    geometry: Geometry
    clamp: bool = True
    crop: Crop = "rounded"
    match_pil: bool = False


@final
class Encoders(nn.Module):
    """The two towers of a CLIP model, frozen and never in training mode.

    Args:
        clip: the model.
        recompute: keep only what is between the layers of the vision tower for the way back.
    """

    def __init__(self, clip: CLIPModel, *, recompute: bool) -> None:
        super().__init__()
        self.clip = clip.requires_grad_(False)
        if recompute:
            layers = clip.vision_model.encoder.layers
            clip.vision_model.encoder.layers = nn.ModuleList(map(Recomputed, layers))
        self.train(False)

    def train(self, mode: bool = True) -> Encoders:
        """Stays in evaluation mode."""
        return super().train(False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.clip.dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.clip.device

    @property
    def size(self) -> int:
        """Side of the pictures it sees, in pixels."""
        return int(self.clip.vision_model.embeddings.image_size)

    def pictures(self, pixels: Tensor) -> Tensor:
        """Unit features (B, D) of standardised pictures (B, 3, size, size), float32 or wider."""
        return _unit(self.clip.get_image_features(pixel_values=pixels.to(self.dtype)))

    def text(self, tokens: Tensor) -> Tensor:
        """Unit features (B, D) of tokens (B, L), float32 or wider."""
        return _unit(self.clip.get_text_features(input_ids=tokens))


@final
class Recomputed(nn.Module):
    """A layer that is run again on the way back instead of keeping its inner values."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *values: Any, **named: Any) -> Any:
        """Whatever the layer gives; its arguments differ from one transformers to another."""
        return checkpoint(
            self.layer, *values, use_reentrant=False, preserve_rng_state=False, **named
        )


@final
@attrs.frozen(kw_only=True, eq=False)
class ClipReward(Reward, ReadsPrompts):
    """scale(cos(picture, prompt), e^s), with the head in float32 whatever the towers are in.

    Attributes:
        network: the towers.
        text: what the tower makes of prompts.
        texts: unit features (D,) of a prompt, on the device of the towers; remembered.
        view: how pictures are resized.
        scale: from cosines (B,) and the factor to scores (B,).
        factor: e^s of the model's own s, about 100.
        who: for messages.
    """

    network: Encoders
    text: Texts
    texts: Callable[[str], Tensor]
    view: View
    scale: Callable[[Tensor, float], Tensor]
    factor: float
    who: str

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,), float32 or wider, of pictures (B, 3 or 1, H, W) in [0, 1].

        Raises:
            ContractError: the data are no such pictures, or a score is not finite.
            PromptError: a prompt is empty.
        """
        _check_prompts(prompts, len(data), self.who)
        # Whatever a training loop does around it, the head keeps its precision.
        with torch.autocast(data.device.type, enabled=False):
            seen = self.features(data, self.who)
            text = torch.stack([self.texts(prompt) for prompt in prompts]).to(seen.device)
            cosine = (seen * text).sum(-1)
            score = self.scale(cosine, self.factor)
        if not torch.isfinite(score.detach()).all():
            cure = "its weights are damaged, or too large for their precision; use another file"
            raise ContractError(f"{self.who}: a score is not a finite number; {cure}")
        return score

    def left_out(self, prompt: str) -> str:
        """How many tokens of a longer prompt count."""
        return self.text.left_out(prompt)

    def features(self, data: Tensor, who: str) -> Tensor:
        """Unit features (B, D), float32 or wider, of pictures (B, 3 or 1, H, W) in [0, 1].

        Raises:
            ContractError: the data are no such pictures; `who` begins the message.
        """
        pictures, view = checked(data, who), self.view
        seen = preprocess(
            pictures,
            self.network.size,
            view.geometry,
            view.match_pil,
            clamp=view.clamp,
            crop=view.crop,
        )
        return self.network.pictures(standardised(seen))


@final
@attrs.frozen(eq=False)
class Texts:
    """What a CLIP model makes of prompts.

    Attributes:
        network: has the tower of texts.
        tokenizer: of the network.
        clean: repairs a prompt first, if there is anything.
    """

    network: Encoders
    tokenizer: Tokenizer
    clean: Callable[[str], str] | None

    @property
    def limit(self) -> int:
        """Tokens that the tower reads, the first and the last included."""
        return int(self.network.clip.text_model.embeddings.position_embedding.num_embeddings)

    def tokens(self, prompt: str) -> list[int]:
        """All tokens of a prompt, with those of its start and its end."""
        ids: list[int] = self.tokenizer.encode(self.clean(prompt) if self.clean else prompt).ids
        return ids

    @torch.no_grad()
    def features(self, prompt: str) -> Tensor:
        """Unit features (D,) of the tokens that the tower reads, without a graph."""
        tokens = self.tokens(prompt)
        if len(tokens) > self.limit:
            tokens = [*tokens[: self.limit - 1], tokens[-1]]
        with torch.autocast(self.network.device.type, enabled=False):
            return self.network.text(torch.tensor([tokens], device=self.network.device))[0]

    def left_out(self, prompt: str) -> str:
        """How many tokens of a longer prompt count."""
        return counted(len(self.tokens(prompt)) - 2, self.limit - 2)


def counted(has: int, limit: int) -> str:
    """What `ReadsPrompts` says of a prompt of so many tokens, of which `limit` are read."""
    return f"has {has} tokens, of which the first {limit} count" if has > limit else ""


def fitted(network: CLIPModel, tokenizer: Tokenizer, who: str) -> CLIPModel:
    """The network, reading a text's features at the tokenizer's token of its end.

    Configurations of older models name another token.

    Raises:
        PartError: the network has not the tokenizer's number of tokens.
    """
    has = network.text_model.embeddings.token_embedding.num_embeddings
    there = tokenizer.get_vocab_size()
    if has != there:
        text = f"the network has {has} tokens, its tokenizer {there}"
        cure = 'give the one it was trained with: tokenizer = "path/to/tokenizer.json"'
        raise PartError(f"{who}: {text}; {cure}")
    network.text_model.eos_token_id = tokenizer.token_to_id(END)
    return network


def _check_prompts(prompts: Sequence[str], rows: int, who: str) -> None:
    if len(prompts) != rows:
        raise ContractError(f"{who}: got {rows} pictures and {len(prompts)} prompts")
    refuse_empty(prompts, who)


def _unit(features: Any) -> Tensor:
    """Features of unit length, in float32 or wider; newer transformers wrap them."""
    raw: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return F.normalize(raw.to(torch.promote_types(raw.dtype, torch.float32)), dim=-1)
