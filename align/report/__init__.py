"""Tables and pictures of a run, made from its folder alone."""

from __future__ import annotations

from pathlib import Path

from align.io.files import write as write_file
from align.report.card import cards
from align.report.grid import grid
from align.report.plots import curves, scatter, tradeoff
from align.report.schema import read
from align.report.study import plot, study_notes, study_rows
from align.report.table import markdown, rows, to_markdown

__all__ = ["read", "rows", "study_notes", "study_rows", "write"]


def write(folder: Path) -> None:
    """Write the tables and pictures of a run into its folder.

    Of studies study.md and study.png; of others table.md, grid.png or scatter.png, tradeoff.png
    and curves.png; and the card of each model that was trained.
    """
    results = read(folder)
    cards(folder, results)
    if studies := results.studies():
        heads, cells = study_rows(studies)
        write_file(folder / "study.md", to_markdown(heads, cells, study_notes(studies)))
        plot(folder, studies)
        return  # steps of a study make no curves
    if sampled := results.sampled():
        write_file(folder / "table.md", markdown(results))
        grid(folder, sampled)
        scatter(folder, sampled)
        tradeoff(folder, results)
    curves(folder)
