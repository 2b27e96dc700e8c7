"""ImageReward's network: a BLIP that reads a prompt while it looks at the picture, and a head.

The modules are named as in the checkpoint, so that its keys are theirs.

Reference: ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation, Xu
et al., 2023, arXiv:2304.05977, section 2.3; BLIP: Bootstrapping Language-Image Pre-training for
Unified Vision-Language Understanding and Generation, Li et al., 2022, arXiv:2201.12086, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Final, final

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

HEAD: Final = 64
"""Numbers in one head of attention, of picture and text alike."""


@final
@attrs.frozen(kw_only=True)
class Sizes:
    """Everything a checkpoint decides; `head` are the widths between the head's linear layers."""

    side: int
    patch: int
    width: int
    hidden: int
    depth: int
    words: int
    positions: int
    text_width: int
    text_hidden: int
    text_depth: int
    head: tuple[int, ...]

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Sizes:
        """The sizes of a checkpoint; raises KeyError for a tensor that they are read off."""
        see, read = "blip.visual_encoder.", "blip.text_encoder."
        patches = state[see + "patch_embed.proj.weight"]
        layer = read + "encoder.layer.0."
        words = state[read + "embeddings.word_embeddings.weight"]
        heads = [state[f"mlp.layers.{place}.weight"] for place in _LINEAR]
        return cls(
            side=isqrt(state[see + "pos_embed"].shape[1] - 1) * patches.shape[-1],
            patch=patches.shape[-1],
            width=patches.shape[0],
            hidden=state[see + "blocks.0.mlp.fc1.weight"].shape[0],
            depth=_count(state, see + "blocks."),
            words=words.shape[0],
            positions=state[read + "embeddings.position_embeddings.weight"].shape[0],
            text_width=words.shape[1],
            text_hidden=state[layer + "intermediate.dense.weight"].shape[0],
            text_depth=_count(state, read + "encoder.layer."),
            head=(heads[0].shape[1], *(weight.shape[0] for weight in heads)),
        )


_LINEAR: Final = (0, 2, 4, 6, 7)
"""Places of the head's linear layers; between the first four the training had dropouts."""


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered blocks a checkpoint has below a prefix."""
    return len({key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)})


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """Attention of q (B, M, C) to k, v (B, N, C), where `seen` (B, 1, 1, N) if given: (B, M, C)."""
    q, k, v = (x.unflatten(-1, (-1, HEAD)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)


@final
class Block(nn.Module):
    """A block of the picture's transformer, normalised before each part."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        linear = {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        self.attn = nn.ModuleDict(linear)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to the same."""
        q, k, v = self.attn["qkv"](self.norm1(x)).chunk(3, -1)
        x = x + self.attn["proj"](attend(q, k, v))
        result: Tensor = x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return result


@final
class Vision(nn.Module):
    """A picture as tokens."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        tokens = (sizes.side // sizes.patch) ** 2 + 1
        self.cls_token = nn.Parameter(torch.empty(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, sizes.width))
        patches = nn.Conv2d(3, sizes.width, sizes.patch, stride=sizes.patch)
        self.patch_embed = nn.ModuleDict({"proj": patches})
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.hidden) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.width, eps=1e-6)

    def forward(self, pixels: Tensor, recompute: bool) -> Tensor:
        """Tokens (B, N, width) of normalised pixels (B, 3, side, side)."""
        x = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed
        for block in self.blocks:
            x = _run(block, recompute, x)
        result: Tensor = self.norm(x)
        return result


@final
class Attention(nn.Module):
    """A layer's attention, to the text itself or to the picture, normalised after the sum."""

    def __init__(self, width: int, source: int) -> None:
        super().__init__()
        taken = {"query": width, "key": source, "value": source}
        self.self = nn.ModuleDict({name: nn.Linear(into, width) for name, into in taken.items()})
        self.output = _output(width, width)

    def forward(self, x: Tensor, source: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, T, width) to the same; source is (B, N, C)."""
        q, k, v = self.self["query"](x), self.self["key"](source), self.self["value"](source)
        result: Tensor = self.output["LayerNorm"](self.output["dense"](attend(q, k, v, seen)) + x)
        return result


@final
class Layer(nn.Module):
    """A layer of the text's transformer, which looks at the picture."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, hidden = sizes.text_width, sizes.text_hidden
        self.attention = Attention(width, width)
        self.crossattention = Attention(width, sizes.width)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = _output(hidden, width)

    def forward(self, x: Tensor, picture: Tensor, seen: Tensor) -> Tensor:
        """(B, T, text_width) to the same."""
        x = self.crossattention(self.attention(x, x, seen), picture)
        wide = F.gelu(self.intermediate["dense"](x))
        result: Tensor = self.output["LayerNorm"](self.output["dense"](wide) + x)
        return result


@final
class Text(nn.Module):
    """A prompt read in the light of a picture."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.text_width
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(sizes.words, width),
                "position_embeddings": nn.Embedding(sizes.positions, width),
                "LayerNorm": nn.LayerNorm(width, eps=1e-12),
            }
        )
        layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.text_depth))
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(self, ids: Tensor, seen: Tensor, picture: Tensor, recompute: bool) -> Tensor:
        """What the first token of ids (B, T) has become, (B, text_width)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        words = self.embeddings["word_embeddings"](ids)
        x = self.embeddings["LayerNorm"](words + self.embeddings["position_embeddings"](places))
        for layer in self.encoder["layer"].children():
            x = _run(layer, recompute, x, picture, seen[:, None, None])
        result: Tensor = x[:, 0]
        return result


@final
class Network(nn.Module):
    """The head's number for pictures and prompts; without dropout, so that no mode changes it."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.blip = nn.ModuleDict({"visual_encoder": Vision(sizes), "text_encoder": Text(sizes)})
        layers: list[nn.Module] = [nn.Identity() for _ in range(_LINEAR[-1] + 1)]
        for place, taken, given in zip(_LINEAR, sizes.head, sizes.head[1:], strict=False):
            layers[place] = nn.Linear(taken, given)
        self.mlp = nn.ModuleDict({"layers": nn.Sequential(*layers)})

    def forward(self, pixels: Tensor, ids: Tensor, seen: Tensor, recompute: bool = False) -> Tensor:
        """(B,) of normalised pixels (B, 3, side, side), words (B, T) and which of them count."""
        vision, text = self.blip["visual_encoder"], self.blip["text_encoder"]
        picture = vision(pixels.to(next(vision.parameters()).dtype), recompute)
        token = text(ids, seen, picture, recompute)
        # In bfloat16 the head would lose most of what the score has left.
        result: Tensor = self.mlp["layers"](token.float())[:, 0]
        return result


def _output(taken: int, width: int) -> nn.ModuleDict:
    """The linear layer and the normalisation that end a part of a text layer."""
    norm = nn.LayerNorm(width, eps=1e-12)
    return nn.ModuleDict({"dense": nn.Linear(taken, width), "LayerNorm": norm})


def _run(block: nn.Module, recompute: bool, x: Tensor, *more: Tensor) -> Tensor:
    """A block's result; with `recompute` it is worked out again on the way back, to save memory."""
    if recompute and torch.is_grad_enabled():
        result: Tensor = checkpoint(block, x, *more, use_reentrant=False, preserve_rng_state=False)
        return result
    return block(x, *more)  # type: ignore[no-any-return]
