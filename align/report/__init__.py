"""Tables and pictures of a run, made from its folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from align.errors import PartError
from align.io.files import write as save
from align.report.card import cards
from align.report.grid import grid
from align.report.plots import curves, scatter, tradeoff
from align.report.study import plot, studied, study_notes, study_rows
from align.report.table import markdown, marked, noted, rows

__all__ = ["noted", "read", "rows", "studied", "study_notes", "study_rows", "write"]


def read(folder: Path) -> dict[str, Any]:
    """The numbers of a run.

    Raises:
        PartError: the folder holds no finished run.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise PartError(f"'{folder}' holds no finished run: it has no results.json")
    results: dict[str, Any] = json.loads(path.read_text())
    return results


def write(folder: Path) -> None:
    """Write the tables and pictures of a run into its folder.

    Of studies study.md and study.png; of others table.md, grid.png or scatter.png, tradeoff.png
    and curves.png; and the card of each model that was trained.
    """
    results = read(folder)
    cards(folder, results)
    if arms := studied(results):
        save(folder / "study.md", marked(*study_rows(arms), study_notes(arms)))
        plot(folder, arms)
        return  # steps of a study make no curves
    if made := [arm for arm in results["arms"] if arm["samples"]]:
        save(folder / "table.md", markdown(results))
        grid(folder, made)
        scatter(folder, made)
        tradeoff(folder, results)
    curves(folder)
