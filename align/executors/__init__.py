"""Executors: processes on this machine that make the blocks of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.catalog.hookspecs import hookimpl

if TYPE_CHECKING:
    from align.core.executor import Executor


@hookimpl
def align_executors() -> list[type[Executor]]:
    """Executors."""
    from align.executors.local import Local

    return [Local]
