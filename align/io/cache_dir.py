"""Where align keeps what it can make again: base samples, the listing of parts."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir(name: str) -> Path:
    """The folder of one cache, which may not exist yet.

    It lies in the folder that the variable ALIGN_CACHE names, else in `align` under XDG_CACHE_HOME,
    else in `~/.cache/align`.

    Args:
        name: of the cache.

    Raises:
        OSError: no variable names a folder, and nobody knows the user's home.
    """
    if own := os.environ.get("ALIGN_CACHE"):
        return Path(own).expanduser().absolute() / name
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():  # the standard says that a relative path counts as none
        return shared / "align" / name
    try:
        return Path.home() / ".cache" / "align" / name
    except RuntimeError as error:
        raise FileNotFoundError(f"no folder for caches ({error}); set ALIGN_CACHE") from error
