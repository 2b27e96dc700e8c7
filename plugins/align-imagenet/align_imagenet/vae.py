"""The autoencoder of Stable Diffusion, `AutoencoderKL` of diffusers, between pictures and latents.

Reference: High-Resolution Image Synthesis with Latent Diffusion Models, Rombach et al., 2022,
arXiv:2112.10752, section 3.1.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import attrs
import torch
from torch import Tensor, nn

from align import PartError, at_least, option
from align.core.autoencoder import AutoencoderSpec
from align.io.hub import is_id
from align.networks.autoencoder import Autoencoder, AutoencoderConfig

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@final
@attrs.frozen(kw_only=True)
class KL(AutoencoderSpec):
    """The autoencoder of Stable Diffusion, ready-made.

    The autoencoder of Stable Diffusion, as its package diffusers computes it.

    Pictures are encoded as the mean of their latents. Decoding tile by tile is an approximation:
    each tile is normalised by itself, and neighbours are blended where they overlap.

    Reference: High-Resolution Image Synthesis with Latent Diffusion Models, Rombach et al., 2022,
    arXiv:2112.10752, section 3.1.
    """

    kind: ClassVar[str] = "kl"

    colours: int = option("channels of a picture", check=at_least(1), default=3)
    latents: int = option("channels of a latent", check=at_least(1), default=4)
    widths: tuple[int, ...] = option(
        "channels at each side of the pictures, from the largest side to the smallest",
        default=(128, 256, 512, 512),
    )
    depth: int = option("residual blocks at each side", check=at_least(1), default=2)
    groups: int = option(
        "groups of channels that are normalised; divides the widths", check=at_least(1), default=32
    )
    slice: bool = option(
        "whether pictures are decoded one after the other: less memory", default=False
    )
    tile: int = option(
        "side in latents of the tiles that are decoded one after the other; 0 decodes all at once",
        check=at_least(0),
        default=0,
    )
    recompute: bool = option(
        "whether blocks run again in the backward pass: less memory, a third more time",
        default=False,
    )

    def layers(self) -> tuple[nn.Module, nn.Module]:
        """An untrained encoder and decoder; raises PartError without diffusers."""
        levels = len(self.widths)
        vae = _diffusers("autoencoder 'kl'").AutoencoderKL(
            in_channels=self.colours,
            out_channels=self.colours,
            latent_channels=self.latents,
            block_out_channels=self.widths,
            layers_per_block=self.depth,
            norm_num_groups=self.groups,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
        )
        return self.halves(vae)

    def halves(self, vae: AutoencoderKL) -> tuple[nn.Module, nn.Module]:
        """The encoder and the decoder of `vae`, which shares them."""
        if self.slice:
            vae.enable_slicing()
        if self.recompute:
            vae.enable_gradient_checkpointing()
        if self.tile:
            vae.enable_tiling()
            vae.tile_latent_min_size = self.tile
            vae.tile_sample_min_size = self.tile * 2 ** (len(self.widths) - 1)
        encoder, decoder = _Encoder(vae), _Decoder(vae)
        return encoder, decoder


class _Half(nn.Module):
    """Some of the modules of an AutoencoderKL, with its methods."""

    def __init__(self, vae: AutoencoderKL, others: tuple[str, ...]) -> None:
        super().__init__()
        self.vae = copy.copy(vae)
        # A copy shares the table of its modules with the original.
        self.vae._modules = {k: None if k in others else v for k, v in vae._modules.items()}

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(next(self.parameters()).dtype)


@final
class _Encoder(_Half):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__(vae, ("decoder", "post_quant_conv"))

    def forward(self, pictures: Tensor) -> Tensor:
        """The mean of the latents of pictures from -1 to 1."""
        mean: Tensor = self.vae.encode(self._cast(pictures)).latent_dist.mean
        return mean.to(pictures.dtype)


@final
class _Decoder(_Half):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__(vae, ("encoder", "quant_conv"))

    def forward(self, latents: Tensor) -> Tensor:
        """Pictures, about from -1 to 1."""
        pictures: Tensor = self.vae.decode(self._cast(latents)).sample
        return pictures.to(latents.dtype)


def load(weights: str, like: KL, dtype: torch.dtype, *, offline: bool, who: str) -> Autoencoder:
    """A pretrained autoencoder, frozen, on the CPU; its latents are scaled as its file says.

    Args:
        weights: a folder as diffusers saves it, or an id on the hub.
        like: how it decodes; its sizes are those of the file.
        dtype: of its weights; pictures and latents stay in float32.
        offline: never download.
        who: the part that asks, for messages.

    Raises:
        PartError: of one line; diffusers is missing, or the autoencoder is, or its file does not
            fit.
    """
    folder, who = Path(weights).expanduser(), f"{who}: vae: '{weights}'"
    if not folder.is_dir() and not is_id(weights):
        raise PartError(f"{who}: no such folder, as seen from '{Path.cwd()}'")
    diffusers = _diffusers(who)
    try:
        with warnings.catch_warnings():
            # diffusers still says it to a hub that has forgotten it.
            warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks")
            vae, info = diffusers.AutoencoderKL.from_pretrained(
                str(folder) if folder.is_dir() else weights,
                local_files_only=offline or folder.is_dir(),
                torch_dtype=dtype,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise PartError(f"{who}: {lines[0]}") from error
    for what in ("missing", "unexpected", "mismatched"):
        if names := info[f"{what}_keys"]:
            listed = ", ".join(map(str, list(names)[:3]))
            raise PartError(f"{who} does not fit: {len(names)} {what} ({listed})")
    config = vae.config
    spec = attrs.evolve(
        like,
        colours=config.in_channels,
        latents=config.latent_channels,
        widths=tuple(config.block_out_channels),
        depth=config.layers_per_block,
        groups=config.norm_num_groups,
    )
    with torch.device("meta"):
        outer = Autoencoder(spec)
    outer.encoder, outer.decoder = spec.halves(vae)
    outer.mean = torch.full((1, spec.latents, 1, 1), float(config.shift_factor or 0))
    outer.std = torch.full((1, spec.latents, 1, 1), 1 / float(config.scaling_factor))
    return outer.eval().requires_grad_(False)


def sketch(like: KL, dtype: torch.dtype) -> Autoencoder:
    """The autoencoder of Stable Diffusion without weights, on the device "meta".

    Without diffusers it can be made all the same, and decodes nothing.
    """
    with torch.device("meta"):
        try:
            outer = Autoencoder(like)
        except PartError as error:
            outer = Autoencoder(AutoencoderConfig(latents=like.latents))
            outer.decoder = _Missing(str(error))
    outer.encoder.to(dtype)
    outer.decoder.to(dtype)
    return outer.eval().requires_grad_(False)


@final
class _Missing(nn.Module):
    """Stands where diffusers would be.

    Args:
        reason: why it is not there.
    """

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def forward(self, latents: Tensor) -> Tensor:
        """Raises PartError."""
        raise PartError(self.reason)


def _diffusers(who: str) -> Any:
    try:
        import diffusers
    except (ImportError, RuntimeError) as error:  # a torchvision of another build raises the latter
        cure = "pip install 'align-imagenet[latents]'"
        raise PartError(f"{who}: diffusers cannot be imported ({error}); {cure}") from error
    return diffusers
