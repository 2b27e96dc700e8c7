"""What tests of rewards on CLIP models need: a small checkpoint of the true form, and its scores.

The second forward pass here shares no code with the one that is tested.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align import Reward, Streams
from align_clip.convert import Activation, from_file
from align_clip.tokens import from_merges

State = dict[str, Tensor]

MERGES = [("c", "a"), ("ca", "t</w>"), ("a", "t"), ("d", "o"), ("do", "g</w>"), ("h", "e")]


def small_state(
    *,
    vision: int = 128,
    text: int = 64,
    layers: int = 2,
    inner: int = 128,
    features: int = 48,
    size: int = 32,
    patch: int = 8,
    context: int = 16,
    tokens: int = 2 * 256 + len(MERGES) + 2,
    seed: int = 0,
) -> State:
    """Tensors by the names and in the shapes of OpenAI's and open_clip's CLIP models.

    They are large enough for scores to differ from picture to picture.
    """
    shapes = {
        "positional_embedding": (context, text),
        "text_projection": (text, features),
        "token_embedding.weight": (tokens, text),
        "visual.class_embedding": (vision,),
        "visual.positional_embedding": ((size // patch) ** 2 + 1, vision),
        "visual.proj": (vision, features),
        "visual.conv1.weight": (vision, 3, patch, patch),
    }
    for start, width in (("", text), ("visual.", vision)):
        for number in range(layers):
            block = f"{start}transformer.resblocks.{number}."
            shapes |= {
                block + "attn.in_proj_weight": (3 * width, width),
                block + "attn.in_proj_bias": (3 * width,),
                block + "attn.out_proj.weight": (width, width),
                block + "attn.out_proj.bias": (width,),
                block + "mlp.c_fc.weight": (inner, width),
                block + "mlp.c_fc.bias": (inner,),
                block + "mlp.c_proj.weight": (width, inner),
                block + "mlp.c_proj.bias": (width,),
            }
    norms = [
        f"{name.partition('attn')[0]}ln_{i}"
        for name in shapes
        for i in (1, 2)
        if name.endswith("in_proj_bias")
    ]
    wide = {
        name: (vision if name.startswith("visual.") else text,)
        for name in (*norms, "ln_final", "visual.ln_pre", "visual.ln_post")
    }

    def drawn() -> State:
        state = {
            name: nn.init.normal_(torch.empty(shape), 0, 0.15) for name, shape in shapes.items()
        }
        for name, width in wide.items():
            state[name + ".weight"] = nn.init.normal_(torch.empty(width), 1, 0.2)
            state[name + ".bias"] = nn.init.normal_(torch.empty(width), 0, 0.2)
        return state

    return Streams(seed, (0,)).initialise(drawn) | {"logit_scale": torch.tensor(math.log(40.0))}


def small_tokenizer(path: Path) -> Path:
    """Write a tokenizer of bytes and a few merges, 520 tokens in all, as 'tokenizer.json'."""
    from_merges(MERGES).save(str(path))
    return path


def small_folder(state: State, folder: Path, activation: Activation) -> Path:
    """Save a state as transformers does: 'config.json' and 'model.safetensors' in a folder."""
    torch.save(state, folder / "state.pt")
    from_file(folder / "state.pt", activation, "a test").save_pretrained(folder)
    (folder / "state.pt").unlink()
    return folder


def picture_features(state: State, pixels: Tensor, *, heads: int, activation: str) -> Tensor:
    """Unit features (B, D) of standardised pictures (B, 3, size, size)."""
    patch = state["visual.conv1.weight"].shape[-1]
    x = F.conv2d(pixels, state["visual.conv1.weight"], stride=patch).flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, x], 1) + state["visual.positional_embedding"]
    x = _blocks(state, "visual.", _norm(state, "visual.ln_pre", x), heads, activation, None)
    return F.normalize(_norm(state, "visual.ln_post", x[:, 0]) @ state["visual.proj"], dim=-1)


def text_features(state: State, tokens: Tensor, *, heads: int, activation: str) -> Tensor:
    """Unit features (B, D) of tokens (B, L); the largest token ends the text."""
    x = state["token_embedding.weight"][tokens] + state["positional_embedding"][: tokens.shape[1]]
    later = torch.full((tokens.shape[1],) * 2, -torch.inf).triu(1).to(x)
    x = _norm(state, "ln_final", _blocks(state, "", x, heads, activation, later))
    end = x[torch.arange(len(x)), tokens.argmax(-1)]
    return F.normalize(end @ state["text_projection"], dim=-1)


def _blocks(
    state: State, start: str, x: Tensor, heads: int, activation: str, mask: Tensor | None
) -> Tensor:
    depth = sum(name.startswith(f"{start}transformer") for name in state) // 12
    for number in range(depth):
        block = f"{start}transformer.resblocks.{number}."
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in _linear(
                _norm(state, block + "ln_1", x),
                state[block + "attn.in_proj_weight"],
                state[block + "attn.in_proj_bias"],
            ).chunk(3, -1)
        )
        likeness = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        seen = (likeness if mask is None else likeness + mask).softmax(-1) @ v
        x = x + _named(state, block + "attn.out_proj", seen.transpose(1, 2).flatten(2))
        h = _named(state, block + "mlp.c_fc", _norm(state, block + "ln_2", x))
        h = h * torch.sigmoid(1.702 * h) if activation == "quick_gelu" else F.gelu(h)
        x = x + _named(state, block + "mlp.c_proj", h)
    return x


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x @ weight.T + bias


def _named(state: State, name: str, x: Tensor) -> Tensor:
    return _linear(x, state[name + ".weight"], state[name + ".bias"])


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    middle = x - x.mean(-1, keepdim=True)
    size = (middle.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return middle / size * state[name + ".weight"] + state[name + ".bias"]


def pictures(height: int, width: int, count: int = 2, seed: int = 0) -> Tensor:
    """Smooth coloured noise in [0, 1], (count, 3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def eight_bits(x: Tensor) -> Tensor:
    """Pictures as a file keeps them: 256 levels a channel."""
    return (x * 255).round() / 255


def climbed(reward: Reward, x: Tensor, prompt: str, steps: int = 8) -> Tensor:
    """Pictures (B, 3, H, W) after steps of 0.01 along the sign of the gradient, saved and read."""
    prompts = [prompt] * len(x)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(reward.score(x, prompts).sum(), x)
        x = (x + 0.01 * gradient.sign()).clamp(0, 1)
    return eight_bits(x.detach())
