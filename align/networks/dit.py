"""The diffusion transformer, as a flow (SiT), a flow map (DMF) and a meta flow map (MFM).

Parameter names and shapes follow the released checkpoints of MFM, DMF and SiT.

Reference: Scalable Diffusion Models with Transformers, Peebles, Xie, 2022, arXiv:2212.09748;
Decoupled MeanFlow, Lee et al., 2025, arXiv:2510.24474 (blocks that see the start or the end); Meta
Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 71 and 72.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar, Literal, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.core.model import Domain
from align.core.network import OBJECTS, ConditionedNetworkSpec, Role, VelocityNetwork
from align.core.option import ConfigError, at_least, option
from align.networks.layers import Attention, LabelEmbedder, TimeEmbedder


def _fours(_: Any, attribute: attrs.Attribute[Any], value: int) -> None:
    # Sines and cosines of rows and of columns each have a quarter of the channels.
    if value < 4 or value % 4:
        raise ValueError(f"'{attribute.name}' must be a multiple of 4, got {value}")


def _rising(_: Any, attribute: attrs.Attribute[Any], value: tuple[float, ...]) -> None:
    if any(high <= low for low, high in pairwise(value)):
        raise ValueError(f"'{attribute.name}' must rise, got {list(value)}")


@final
@attrs.frozen(kw_only=True)
class DiTConfig(ConditionedNetworkSpec):
    """A transformer, for latents of pictures.

    A diffusion transformer, for states that are latents of pictures.

    Reference: Scalable Diffusion Models with Transformers, Peebles, Xie, 2022, arXiv:2212.09748.
    """

    kind: ClassVar[str] = "dit"
    domain: ClassVar[Domain | None] = "image"

    width: int = option("channels of a token, a multiple of 4", check=_fours, default=192)
    depth: int = option("number of transformer blocks", check=at_least(1), default=6)
    heads: int = option("attention heads; divides the width", check=at_least(1), default=3)
    patch: int = option("side of a patch, in pixels of a latent", check=at_least(1), default=1)
    encoder_depth: int = option(
        "blocks of a map that see the start time; the others see the end time",
        check=at_least(0),
        default=attrs.Factory(lambda spec: min(4, spec.depth), True),
        shown="4, or all where there are fewer",
    )
    time_scale: float = option("factor on times before they are embedded", default=1.0)
    data_at: Literal[0, 1] = option(
        "time of clean data in the network's own count; with 0 it sees 1 − s and 1 − u, and the"
        " other sign is taken of what it says",
        default=1,
    )
    guidance_scales: tuple[float, ...] = option(
        "guidance scales of which a meta flow map has an embedding each, rising; it takes the one"
        " that is nearest to the scale asked for, of two the lower",
        default=(),
        check=_rising,
    )

    def __attrs_post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"'heads' must divide 'width', {self.width}")
        if self.encoder_depth > self.depth:
            raise ValueError(
                f"'encoder_depth' must be at most the depth, {self.depth}, got {self.encoder_depth}"
            )

    @property
    def weights_at_least(self) -> int:
        """Those of the blocks: attention, two layers, modulation; and their Python objects."""
        return self.depth * (18 * self.width**2 + OBJECTS)

    def shape_problems(self, shape: tuple[int, ...]) -> Iterator[ConfigError]:
        """That patches do not cover a state."""
        if any(side % self.patch for side in shape[1:]):
            sides = " x ".join(map(str, shape[1:]))
            yield ConfigError(
                ("patch",), f"states of {sides} cannot be cut into squares of {self.patch}"
            )

    def build(self, shape: tuple[int, ...], classes: int, role: Role, features: int = 0) -> DiT:
        """An untrained transformer."""
        return DiT(self, shape, classes, role, features)


@final
class _Modulation(nn.Linear):
    """A linear layer that computes in the precision of its input, whatever that of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        """W `input` + b."""
        return F.linear(input, self.weight.to(input.dtype), self.bias.to(input.dtype))


class _PatchEmbedder(nn.Module):
    """Non-overlapping patches of (B, C, H, W) as tokens (B, H W / patch², width)."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of `x`."""
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of (B, L, width)."""
        changed: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return changed


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise tokens (B, L, width) and move them by a shift and scale of (B, width)."""
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return x * (1 + scale[:, None]) + shift[:, None]


class _Block(nn.Module):
    """Attention and MLP, each modulated and gated by the condition (adaLN-Zero).

    Their weights may be of less precision than the tokens and the condition, which keep theirs.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = _Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), _Modulation(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens (B, L, width) under the condition (B, width)."""
        shift, scale, gate, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, 1)
        dtype = self.mlp.fc1.weight.dtype
        x = x + gate[:, None] * self.attn(_modulate(x, shift, scale).to(dtype))
        change: Tensor = self.mlp(_modulate(x, shift2, scale2).to(dtype))
        moved: Tensor = x + gate2[:, None] * change
        return moved


class _FinalLayer(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Patches (B, L, out) of tokens (B, L, width)."""
        patches: Tensor = self.linear(_modulate(x, *self.adaLN_modulation(c).chunk(2, 1)))
        return patches


@final
class DiT(VelocityNetwork):
    """A diffusion transformer of states (C, H, W); see `VelocityNetwork` for its arguments.

    The weights of `blocks` may be cast to a smaller floating type by themselves: tokens, times and
    modulations are then still computed in the type of the other weights.
    """

    config: DiTConfig
    pos_embed: Tensor

    def __init__(
        self,
        config: DiTConfig,
        shape: tuple[int, ...],
        classes: int,
        role: Role,
        features: int = 0,
    ) -> None:
        super().__init__(config, shape, classes, role, features)
        channels, rows, columns = shape
        self.grid = (rows // config.patch, columns // config.patch)
        width, scale = config.width, config.time_scale
        self.register_buffer("pos_embed", _positions(width, *self.grid)[None])
        self.x_embedder = _PatchEmbedder(channels, width, config.patch)
        self.y_embedder = LabelEmbedder(classes, width, features)
        if role == "meta_flow_map":
            self.guidance_scales = config.guidance_scales
            if self.guidance_scales:
                self.guidance_embedder = LabelEmbedder(len(self.guidance_scales) - 1, width)
            self.x_cond_embedder = _PatchEmbedder(channels, width, config.patch)
            self.x_cond_adaLN = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
            self.s_embedder = TimeEmbedder(width, scale)
            self.t_cond_embedder = TimeEmbedder(width, scale)
            self.s_embedder_second = TimeEmbedder(width, scale)
            self.t_embedder_second = TimeEmbedder(width, scale)
        self.t_embedder = TimeEmbedder(width, scale)
        self.blocks = nn.ModuleList(_Block(width, config.heads) for _ in range(config.depth))
        self.final_layer = _FinalLayer(width, channels * config.patch**2)
        if not self.pos_embed.is_meta:
            _initialise(self)

    def forward(
        self,
        y: Tensor,
        s: Tensor,
        u: Tensor,
        t: Tensor,
        x: Tensor,
        label: Tensor,
        scale: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """Average velocity (B, *S) from y (B, *S) over inner times s to u, given (t, x).

        A meta flow map with `guidance_scales` takes the `scale` (B,) of each row; without it, the
        lowest one.
        """
        if self.config.data_at == 0:
            s, u = 1 - s, 1 - u
        tokens = self.x_embedder(y) + self.pos_embed.to(y.dtype)
        label_embedding = self.y_embedder(label, features)
        if self.role == "meta_flow_map":
            context = self.t_cond_embedder(t)
            shift, stretch = self.x_cond_adaLN(context).chunk(2, 1)
            tokens = tokens + self.x_cond_embedder(x) * (1 + stretch[:, None]) + shift[:, None]
            early = self.s_embedder(s) + self.t_embedder(u) + context + label_embedding
            late = self.s_embedder_second(s) + self.t_embedder_second(u) + context + label_embedding
            if self.guidance_scales:
                early = early + self.guidance_embedder(self._nearest(label, scale))
        else:
            early = self.t_embedder(s) + label_embedding
            late = self.t_embedder(u) + label_embedding if self.role == "flow_map" else early
        for depth, block in enumerate(self.blocks):
            tokens = block(tokens, early if depth < self.config.encoder_depth else late)
        velocity = self._unpatch(self.final_layer(tokens, late))
        return -velocity if self.config.data_at == 0 else velocity

    def _nearest(self, label: Tensor, scale: Tensor | None) -> Tensor:
        """Number of the guidance scale that is nearest to `scale`; (B,)."""
        rows = torch.zeros_like(label)
        if scale is not None:
            for low, high in pairwise(self.guidance_scales):
                rows = rows + (scale > (low + high) / 2)
        return rows

    def weights_for(self, larger: DiT) -> dict[str, Tensor]:
        """State dict of `larger`, which then says what this network says.

        A flow and a flow map have the same weights: the map's later blocks see another time. To a
        meta flow map's blocks the end of a jump is silent where they see the start, and the other
        way round; its context patches are multiplied by zero.
        """
        state = self.state_dict()
        if larger.role == "flow_map":
            return state
        new = larger.state_dict()
        for key, tensor in state.items():
            part, _, rest = key.partition(".")
            if part == "t_embedder":
                new[f"s_embedder.{rest}"] = new[f"t_embedder_second.{rest}"] = tensor
            else:
                new[key] = tensor
            if part == "x_embedder":
                new[f"x_cond_embedder.{rest}"] = tensor
        for silent in ("t_embedder", "s_embedder_second", "t_cond_embedder"):
            new[f"{silent}.mlp.2.weight"].zero_()
            new[f"{silent}.mlp.2.bias"].zero_()
        if larger.guidance_scales:
            new["guidance_embedder.embedding_table.weight"].zero_()
        # Shift 0 and scale −1.
        new["x_cond_adaLN.1.weight"].zero_()
        shift, scale = new["x_cond_adaLN.1.bias"].chunk(2)
        shift.zero_(), scale.fill_(-1)
        return new

    def _unpatch(self, patches: Tensor) -> Tensor:
        """Patches (B, L, patch² C) back to states (B, C, H, W)."""
        side = self.config.patch
        x: Tensor = patches.unflatten(1, self.grid).unflatten(3, (side, side, -1))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def _initialise(net: DiT) -> None:
    """Xavier weights, zero gates and a zero last layer, as DiT starts."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    embedders = [m for m in net.modules() if isinstance(m, TimeEmbedder)]
    for layer in (layer for embedder in embedders for layer in embedder.mlp):
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
    for block in (*net.blocks, net.final_layer):
        nn.init.zeros_(block.adaLN_modulation[1].weight)
    nn.init.zeros_(net.final_layer.linear.weight)


def _positions(width: int, rows: int, columns: int) -> Tensor:
    """Fixed 2-D sine-cosine positions, (rows · columns, width)."""
    frequencies = 1 / 10_000 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))

    def along(places: Tensor) -> Tensor:
        angles = places[:, None].double() * frequencies
        return torch.cat((angles.sin(), angles.cos()), 1)

    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.cat((along(column.flatten()), along(row.flatten())), 1).float()
