"""Network architectures: torch modules, and the options that make them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.catalog.hookspecs import hookimpl

if TYPE_CHECKING:
    from align.core.autoencoder import AutoencoderSpec
    from align.core.network import NetworkSpec


@hookimpl
def align_autoencoders() -> list[type[AutoencoderSpec]]:
    """Autoencoders."""
    from align.networks.autoencoder import AutoencoderConfig
    from align.networks.pixel_shuffle import PixelShuffleConfig

    return [AutoencoderConfig, PixelShuffleConfig]


@hookimpl
def align_networks() -> list[type[NetworkSpec]]:
    """Networks of velocities."""
    from align.networks.dit import DiTConfig
    from align.networks.mlp import MLPConfig
    from align.networks.unet import UNetConfig

    return [DiTConfig, MLPConfig, UNetConfig]
