"""Tiny random files of the public layouts, and a tiny autoencoder; for tests."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from align_imagenet.layouts import Name

WIDTH: Final = 24
HEADS: Final = 3
LATENTS: Final = 4
SIDE: Final = 8
"""Side of a latent."""

_PATCH: Final = 2
_TIMES: Final = {"mfm": ("s_embedder", "t_cond_embedder", "s_embedder_second", "t_embedder_second")}


def tensors(
    layout: Name, *, width: int = WIDTH, depth: int = 3, variance: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """A random state dict with the keys and shapes that a project saves, for latents of 4 x 8 x 8.

    Args:
        layout: of the project.
        width: channels of a token.
        depth: number of blocks.
        variance: whether the last layer predicts a variance too.
        seed: of the numbers.
    """
    rows = LATENTS * _PATCH**2 * (2 if variance else 1)
    single = {
        "pos_embed": (1, (SIDE // _PATCH) ** 2, width),
        "y_embedder.embedding_table.weight": (1001, width),
    }
    layers = {
        "x_embedder.proj": (width, LATENTS, _PATCH, _PATCH),
        "final_layer.linear": (rows, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    if layout == "mfm":
        single["guidance_embedder.embedding_table.weight"] = (2, width)
        layers["x_cond_embedder.proj"] = layers["x_embedder.proj"]
        layers["x_cond_adaLN.1"] = (2 * width, width)
    for name in ("t_embedder", *_TIMES.get(layout, ())):
        layers |= {f"{name}.mlp.0": (width, 256), f"{name}.mlp.2": (width, width)}
    for number in range(depth):
        layers |= {
            f"blocks.{number}.attn.qkv": (3 * width, width),
            f"blocks.{number}.attn.proj": (width, width),
            f"blocks.{number}.mlp.fc1": (4 * width, width),
            f"blocks.{number}.mlp.fc2": (width, 4 * width),
            f"blocks.{number}.adaLN_modulation.1": (6 * width, width),
        }
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: Iterable[int], deviation: float) -> Tensor:
        return deviation * torch.randn(tuple(shape), generator=generator)

    state = {name: drawn(shape, 1.0) for name, shape in single.items()}
    for name, shape in layers.items():
        state[f"{name}.weight"] = drawn(shape, math.prod(shape[1:]) ** -0.5)
        state[f"{name}.bias"] = drawn(shape[:1], 0.1)
    return state


def save_autoencoder(folder: Path, *, seed: int = 0) -> None:
    """Write a tiny AutoencoderKL of diffusers, between pictures of 16 pixels and such latents."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            latent_channels=LATENTS,
            norm_num_groups=2,
            sample_size=2 * SIDE,
        ).save_pretrained(folder)
