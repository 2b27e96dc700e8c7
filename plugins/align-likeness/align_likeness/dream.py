"""Likeness by DreamSim, as its package loads it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from align import PartError
from align.io.images import preprocess
from align_likeness.parts import Likeness

_SIDE: Final = 224
_WHO: Final = "likeness 'dreamsim'"


def likeness(variant: str, folder: str, picture: Tensor) -> Likeness:
    """The negative distance from a picture (3, H, W).

    Raises:
        PartError: the package is missing or does not import, or it cannot load its networks.
    """
    try:
        network, _ = _loaded(variant, folder, picture.device)
    except ImportError as error:
        cure = "`align verify dreamsim --make-venv FOLDER` makes an environment that has it"
        raise PartError(f"{_WHO}: {error}; {cure}") from error

    def embedded(pictures: Tensor) -> Tensor:
        features: Tensor = network.embed(preprocess(pictures, _SIDE, "squash"))
        return features.reshape(len(pictures), -1)

    with torch.no_grad():
        wanted = embedded(picture[None].float())
    return lambda pictures: F.cosine_similarity(embedded(pictures), wanted, dim=-1) - 1


def judged(variant: str, folder: str, picture: Image, pictures: Sequence[Image]) -> Tensor:
    """Negative distances (B,) from a picture, resized and measured by the package, on the CPU.

    Raises:
        ImportError: the package is missing, or does not import.
        PartError: the package cannot load its networks.
    """
    network, view = _loaded(variant, folder, torch.device("cpu"))
    with torch.no_grad():
        return -torch.cat([network(view(one), view(picture)) for one in pictures])


def _loaded(variant: str, folder: str, device: torch.device) -> tuple[Any, Callable[..., Tensor]]:
    """The package's frozen network, and what makes a picture of PIL its input (1, 3, 224, 224)."""
    hub = torch.hub.get_dir()
    # It says what it does; and its own way of loading has peft and torch warn.
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            package = import_module("dreamsim")
        except (ImportError, RuntimeError) as error:  # a torchvision of another build: the latter
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise ImportError(f"dreamsim cannot be imported ({first})") from error
        try:
            Path(folder).parent.mkdir(parents=True, exist_ok=True)  # the last it makes itself
            network, view = package.dreamsim(
                pretrained=True, device=str(device), cache_dir=folder, dreamsim_type=variant
            )
        except Exception as error:  # of the network, of the disk and of damaged files
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            cure = "it needs a network once, or a 'folder' that another machine has filled"
            raise PartError(f"{_WHO}: cannot load '{variant}': {first}; {cure}") from error
        finally:
            torch.hub.set_dir(hub)  # it makes its folder that of all downloads
    return network.requires_grad_(False).eval(), view
