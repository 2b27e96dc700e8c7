"""A small U-Net, as a flow, a flow map and a meta flow map.

Reference: U-Net: Convolutional Networks for Biomedical Image Segmentation, Ronneberger, Fischer,
Brox, 2015, arXiv:1505.04597, Fig. 1; Diffusion Models Beat GANs on Image Synthesis, Dhariwal,
Nichol, 2021, arXiv:2105.05233, section 3 (residual blocks that are scaled and shifted, attention).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, pairwise
from typing import ClassVar, final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.core.model import Domain
from align.core.network import OBJECTS, ConditionedNetworkSpec, Role, VelocityNetwork
from align.core.option import ConfigError, at_least, option
from align.networks.layers import GROUPS, Attention, LabelEmbedder, TimeEmbedder, in_groups


@final
@attrs.frozen(kw_only=True)
class UNetConfig(ConditionedNetworkSpec):
    """A small U-Net, for latents of pictures.

    A small U-Net with attention at its smallest side, for states that are latents of pictures.

    Reference: Diffusion Models Beat GANs on Image Synthesis, Dhariwal, Nichol, 2021,
    arXiv:2105.05233, section 3.
    """

    kind: ClassVar[str] = "unet"
    domain: ClassVar[Domain | None] = "image"

    widths: tuple[int, ...] = option(
        "channels at each side, multiples of 8: first at the side of the states, then at half of"
        " it, and so on",
        check=in_groups,
        default=(64, 128),
    )
    blocks: int = option(
        "residual blocks at each side, on the way down and again on the way up",
        check=at_least(1),
        default=2,
    )
    heads: int = option(
        "attention heads at the smallest side; divides its width", check=at_least(1), default=2
    )
    time_scale: float = option("factor on times before they are embedded", default=1.0)

    def __attrs_post_init__(self) -> None:
        if self.widths[-1] % self.heads:
            raise ValueError(f"'heads' must divide the last of 'widths', {self.widths[-1]}")

    @property
    def weights_at_least(self) -> int:
        """Two convolutions a block, on the way down and up; and their Python objects."""
        return 2 * self.blocks * sum(18 * width**2 + OBJECTS for width in self.widths)

    def shape_problems(self, shape: tuple[int, ...]) -> Iterator[ConfigError]:
        """That the sides cannot be halved so often."""
        halvings = len(self.widths) - 1
        if any(side % 2**halvings for side in shape[1:]):
            sides = " x ".join(map(str, shape[1:]))
            yield ConfigError(
                ("widths",),
                f"states of {sides} cannot be halved {halvings} times; name fewer widths",
            )

    def build(self, shape: tuple[int, ...], classes: int, role: Role, features: int = 0) -> UNet:
        """An untrained U-Net."""
        return UNet(self, shape, classes, role, features)


class _Block(nn.Module):
    """Two convolutions, the second one scaled and shifted by the condition; then attention."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, heads: int = 0) -> None:
        super().__init__()
        self.enter_norm = nn.GroupNorm(GROUPS, in_channels)
        self.enter = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * out_channels)
        self.leave_norm = nn.GroupNorm(GROUPS, out_channels)
        self.leave = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.past = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.attn_norm = nn.GroupNorm(GROUPS, out_channels) if heads else None
        self.attn = Attention(out_channels, heads) if heads else None

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Features (B, out_channels, H, W) of `x` under the condition (B, embedding)."""
        scale, shift = self.modulation(F.silu(c))[:, :, None, None].chunk(2, 1)
        h = self.leave_norm(self.enter(F.silu(self.enter_norm(x))))
        x = self.past(x) + self.leave(F.silu(h * (1 + scale) + shift))
        if self.attn is None or self.attn_norm is None:
            return x
        tokens = self.attn_norm(x).flatten(2).transpose(1, 2)
        mixed: Tensor = self.attn(tokens).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + mixed


@final
class UNet(VelocityNetwork):
    """A U-Net of states (C, H, W); see `VelocityNetwork` for its arguments.

    The way down sees the start s of a jump, and the way up its end u. Both see the time t of the
    context, whose state x enters beside y.
    """

    config: UNetConfig

    def __init__(
        self,
        config: UNetConfig,
        shape: tuple[int, ...],
        classes: int,
        role: Role,
        features: int = 0,
    ) -> None:
        super().__init__(config, shape, classes, role, features)
        channels, widths = shape[0], config.widths
        embedding, bottom = 4 * widths[0], widths[-1]
        self.t_embedder = TimeEmbedder(embedding, config.time_scale)
        self.y_embedder = LabelEmbedder(classes, embedding, features)
        in_channels = channels
        if role == "meta_flow_map":
            in_channels = 2 * channels
            self.t_cond_embedder = TimeEmbedder(embedding, config.time_scale)
        self.enter = nn.Conv2d(in_channels, widths[0], 3, padding=1)

        def blocks(wide_in: int, wide_out: int, heads: int = 0) -> list[_Block]:
            return [_Block(wide_in, wide_out, embedding, heads) for _ in range(config.blocks)]

        # Each list in the order in which `forward` goes through it.
        fine, coarse = widths[:-1], widths[:0:-1]
        self.down = nn.ModuleList(chain.from_iterable(blocks(wide, wide) for wide in fine))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.bottom_down = nn.ModuleList(blocks(bottom, bottom, config.heads))
        self.bottom_up = nn.ModuleList(blocks(bottom, bottom, config.heads))
        self.enlarge = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(coarse, fine[::-1], strict=True)
        )
        self.up = nn.ModuleList(chain.from_iterable(blocks(2 * wide, wide) for wide in fine[::-1]))
        self.leave_norm = nn.GroupNorm(GROUPS, widths[0])
        self.leave = nn.Conv2d(widths[0], channels, 3, padding=1)
        _initialise(self)

    def forward(
        self,
        y: Tensor,
        s: Tensor,
        u: Tensor,
        t: Tensor,
        x: Tensor,
        label: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        """Average velocity (B, *S) from y (B, *S) over inner times s to u, given (t, x)."""
        shared = self.y_embedder(label, features)
        if self.role == "meta_flow_map":
            y, shared = torch.cat((y, x), 1), shared + self.t_cond_embedder(t)
        start = self.t_embedder(s) + shared
        end = start if self.role == "flow" else self.t_embedder(u) + shared
        h, skips = self.enter(y), list[Tensor]()
        down, up, count = iter(self.down), iter(self.up), self.config.blocks
        for shrink in self.shrink:
            for block in islice(down, count):
                h = block(h, start)
                skips.append(h)
            h = shrink(h)
        for block in self.bottom_down:
            h = block(h, start)
        for block in self.bottom_up:
            h = block(h, end)
        for enlarge in self.enlarge:
            h = enlarge(F.interpolate(h, scale_factor=2.0))
            for block in islice(up, count):
                h = block(torch.cat((h, skips.pop()), 1), end)
        average: Tensor = self.leave(F.silu(self.leave_norm(h)))
        return average

    def weights_for(self, larger: UNet) -> dict[str, Tensor]:
        """State dict of `larger`, which then says what this network says.

        A flow and a flow map have the same weights: the map's way up sees another time. In a meta
        flow map the first layer is silent about the context, and so is the embedding of its time.
        """
        state = self.state_dict()
        if larger.role == "flow_map":
            return state
        new = larger.state_dict() | state
        enter = torch.zeros_like(larger.enter.weight)
        enter[:, : self.enter.in_channels] = self.enter.weight.detach()
        new["enter.weight"] = enter
        for name in ("weight", "bias"):
            new[f"t_cond_embedder.mlp.2.{name}"].zero_()
        return new


def _initialise(net: UNet) -> None:
    """Every block starts as its identity or its convolution `past`, and the last layer at zero."""
    nn.init.normal_(net.y_embedder.embedding_table.weight, std=0.02)
    for module in net.modules():
        if isinstance(module, _Block):
            layers: list[nn.Conv2d | nn.Linear] = [module.leave, module.modulation]
            layers += [module.attn.proj] if module.attn is not None else []
            for layer in layers:
                _set_to_zero(layer)
    _set_to_zero(net.leave)


def _set_to_zero(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
