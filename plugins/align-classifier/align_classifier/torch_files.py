"""Files of weights that torch's hub has, in torch's own folder."""

from __future__ import annotations

from pathlib import Path

import torch
from loguru import logger

from align import PartError


def place_of(url: str) -> Path:
    """Where torch keeps a file that is downloaded from a URL."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def downloaded(url: str, who: str, offline: bool) -> Path:
    """The file of a URL, downloaded unless it is there.

    Args:
        url: the file's name ends in digits of its SHA-256, as in "resnet50-11ad3fa6.pth".
        who: the part that asks, for messages.
        offline: whether nothing may be downloaded.

    Raises:
        PartError: it is not there and cannot be downloaded.
    """
    path = place_of(url)
    if path.is_file():
        return path
    cure = f"put '{path.name}' into '{path.parent}', or name a file by 'weights'"
    if offline:
        raise PartError(f"{who}: weights: '{path}' is not there, and 'offline' is set; {cure}")
    logger.bind(notice=True).info("{}: downloading '{}'", who, url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digits = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(path), digits, progress=False)
    except Exception as error:  # of the network and of the disk
        first = str(error).strip().partition("\n")[0]
        raise PartError(f"{who}: weights: cannot download '{url}' ({first}); {cure}") from error
    return path
