"""All tables and pictures of a run, into its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from loguru import logger

from align.core.errors import AlignError, PartError
from align.io.files import first_link, read_table
from align.io.files import write as write_file
from align.io.text import csv_text, visible
from align.report.card import cards
from align.report.grid import grid
from align.report.letters import fonts_for
from align.report.page import ABOUT, CURVES, PAGE, RECIPE, SAMPLES, write_page
from align.report.plots import curves, scatter, tradeoff
from align.report.schema import (
    AGAIN,
    NAME,
    ArmNumbers,
    RunResults,
    check_metrics,
    check_recipe,
    check_samples,
    read,
)
from align.report.study import plot, study_notes, study_rows
from align.report.table import long, markdown, to_markdown


def write(folder: Path) -> tuple[str, ...]:
    """Write the tables and pictures of a run into its folder.

    Of studies study.md and study.png; of others table.md, table.csv, grid.png or scatter.png,
    tradeoff.png and curves.png; the card of each model that was trained; and report.html, which has
    it all.

    Returns:
        Why some of them could not be made, one line each, which are logged too: the numbers of the
        run are in results.json, and this can be done again.

    Raises:
        PartError: the folder holds no results.
    """
    results = read(folder)
    if link := first_link(folder):
        raise PartError(f"'{link}' is a link, and a report writes into its run's folder; remove it")
    failed = dict[str, str]()
    with fonts_for(_names(results)):
        for name, make in _tasks(folder, results):
            if failure := _tried(name, make):
                failed[name] = failure
        # The page leaves out what is said to be damaged.
        if failure := _tried(PAGE, lambda: write_page([folder], folder / PAGE, without=failed)):
            failed[PAGE] = failure
    failures = list(dict.fromkeys(failed.values()))
    for failure in failures:
        logger.bind(notice=True).warning("{}", failure)
    return tuple(failures)


def join(folders: Sequence[Path], target: Path) -> None:
    """Write one page of several runs.

    Raises:
        PartError: a folder holds no results, or the page of a run is there.
    """
    if (target.parent / NAME).exists():
        text = f"'{target.name}' here is the page of the run whose folder this is"
        raise PartError(f"{text}; join runs in another working folder")
    names = [name for folder in folders for name in _names(read(folder))]
    with fonts_for(names):
        write_page(folders, target)


def _tasks(folder: Path, results: RunResults) -> Iterable[tuple[str, Callable[[], None]]]:
    """What a report is made of, tables first."""
    studies, sampled = results.studies(), results.sampled()
    if studies:
        yield "study.md", lambda: _study_table(folder, studies, results.notes)
    else:
        yield "table.md", lambda: write_file(folder / "table.md", markdown(folder, results))
        yield "table.csv", lambda: _csv(folder, results)
    yield RECIPE, lambda: check_recipe(folder, results)
    if results.recipe:
        yield ABOUT, lambda: _look_at(folder / ABOUT)
    yield "MODEL_CARD.md", lambda: cards(folder, results)
    if studies:
        yield "study.png", lambda: plot(folder, studies)
        return  # steps of a study make no curves
    if sampled:
        yield SAMPLES, lambda: _samples(folder, results)
        yield "tradeoff.png", lambda: tradeoff(folder, results)
    yield CURVES, lambda: _curves(folder, results)


def _tried(name: str, make: Callable[[], None]) -> str | None:
    """Make something; why it could not be made, in one line."""
    try:
        make()
    except AlignError as error:
        return visible(str(error))
    except Exception as error:  # of libraries that draw, about anything that is drawn
        reason = visible(str(error).partition("\n")[0])
        return f"{name} could not be made ({type(error).__name__}: {reason}); the results are kept"
    return None


def _look_at(path: Path) -> None:
    """Raise PartError if a JSON file cannot be read."""
    read_table(path, AGAIN)


def _csv(folder: Path, results: RunResults) -> None:
    write_file(folder / "table.csv", csv_text(long(folder, results)))


def _curves(folder: Path, results: RunResults) -> None:
    check_metrics(folder, results)
    curves(folder)


def _study_table(folder: Path, studies: tuple[ArmNumbers, ...], notes: tuple[str, ...]) -> None:
    heads, cells = study_rows(studies)
    write_file(folder / "study.md", to_markdown(heads, cells, [*study_notes(studies), *notes]))


def _samples(folder: Path, results: RunResults) -> None:
    for arm in results.sampled():
        check_samples(folder, arm)
    grid(folder, results)
    scatter(folder, results.sampled())


def _names(results: RunResults) -> list[str]:
    """Every text of a user, or of a part, that is drawn."""
    findings = [arm.findings for arm in results.arms if arm.findings is not None]
    panels = [point.panel for found in findings for point in found.points]
    texts = [text for found in findings for text in (found.value, found.calls)]
    return [*(arm.name for arm in results.arms), *results.rewards, *dict.fromkeys(panels), *texts]
