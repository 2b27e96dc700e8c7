"""Data sets that training reads its rows from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.catalog.hookspecs import hookimpl

if TYPE_CHECKING:
    from align.core.dataset import DatasetSpec


@hookimpl
def align_datasets() -> list[type[DatasetSpec]]:
    """Data sets."""
    from align.datasets.pictures import Pictures

    return [Pictures]
