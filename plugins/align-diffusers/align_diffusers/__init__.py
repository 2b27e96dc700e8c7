"""Model `diffusers`: any text-to-image pipeline of diffusers, loaded when it is built."""

from __future__ import annotations

from align import ModelSpec, hookimpl
from align_diffusers.spec import Diffusers

__all__ = ["Diffusers", "align_models"]


@hookimpl
def align_models() -> list[type[ModelSpec]]:
    """A pipeline of diffusers as a flow."""
    return [Diffusers]
