"""Models: networks in weights files, the user's own, and closed-form worlds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.catalog.hookspecs import hookimpl

if TYPE_CHECKING:
    from align.core.model import ModelSpec


@hookimpl
def align_models() -> list[type[ModelSpec]]:
    """Models."""
    from align.models.mixture import Mixture
    from align.models.network import Network
    from align.models.torch import Torch

    return [Mixture, Network, Torch]
