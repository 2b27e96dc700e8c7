"""Whether a process keeps memory that it has freed, for the next step needs as much again.

The C library of Linux hands freed memory back to the system as soon as there is much of it. A step
that frees its graph at its end then pays for every page anew in the next: 5 to 20 % of a step's
time on a CPU. The command line asks for this, `align.run` and `align.sample` do not: the process
is then somebody else's. Elsewhere, and for memory of a GPU, nothing here does anything.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final

LARGEST_KEPT: Final = 32 << 20
"""Bytes from which on the library asks the system for each piece of memory, and returns it: the
largest number that it allows."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER: Final = (1 << 31) - 1


def keep_freed() -> None:
    """From now on this process keeps memory that it frees, for itself."""
    library = _library()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)
        library.mallopt(_TRIM_THRESHOLD, _NEVER)


def return_freed() -> None:
    """Hand back to the system what is free now; changes no setting."""
    library = _library()
    if library is not None:
        library.malloc_trim(0)


def _library() -> Any:
    """The C library, where it is one that has these knobs."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
