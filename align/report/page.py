"""report.html: a run, or several, as one page that needs nothing but itself.

It opens from the disk, asks for nothing over a network, and can be sent. All text of users and of
parts is escaped. Pictures are kept as they are as long as they are few and small, and otherwise
made smaller, so that the page stays below five megabytes.
"""

from __future__ import annotations

import io
import itertools
import re
import shlex
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, final

import attrs
import jinja2
from markupsafe import Markup
from PIL import Image

from align.io.files import read_table, read_text, write
from align.io.images import data_uri, frames, opened
from align.io.text import visible
from align.report.grid import given_files, shown_files
from align.report.letters import plot_text
from align.report.meanings import meaning
from align.report.plots import (
    Cloud,
    FactorPanel,
    Panel,
    judged,
    panels,
    reward_over,
    reward_over_divergence,
    step_label,
)
from align.report.schema import AGAIN, ArmNumbers, RunResults, read, read_metrics
from align.report.study import panel_names, study_notes, study_panel, study_rows
from align.report.svg import drawn
from align.report.table import rows

PAGE: Final = "report.html"
ABOUT: Final = "about.json"
RECIPE: Final = "recipe.toml"
SAMPLES: Final = "grid.png or scatter.png"
CURVES: Final = "curves.png"
"""What else a report is made of, and what the page may have to do without."""

_BYTES: Final = 3_400_000  # of all pictures; in base64 a third more
_SIDES: Final = (512, 384, 256, 192, 128, 96)  # that pictures are made smaller to, until they fit


@final
@attrs.frozen(eq=False)
class RunPage:
    """One run on a page.

    Attributes:
        folder: of the run.
        results: its numbers; arms have the run's name before theirs where there are several runs.
        lines: its steps, as metrics.jsonl has them, with the same names.
        about: of about.json.
        recipe: the resolved recipe.
        has_samples: whether the samples can be shown.
    """

    folder: Path
    results: RunResults
    lines: Sequence[Mapping[str, Any]]
    about: Mapping[str, Any]
    recipe: str
    has_samples: bool = True

    @classmethod
    def of(cls, folder: Path, prefix: str = "", without: Container[str] = ()) -> RunPage:
        """Read a run folder.

        Args:
            folder: of the run.
            prefix: stands before the arms' names.
            without: what is damaged, and left out.

        Raises:
            PartError: it holds no results, or something else in it is damaged.
        """
        results = read(folder)
        lines = [] if CURVES in without else read_metrics(folder)
        about, recipe = folder / ABOUT, folder / RECIPE
        facts = read_table(about, AGAIN) if about.is_file() and ABOUT not in without else {}
        text = read_text(recipe, AGAIN) if recipe.is_file() and RECIPE not in without else ""
        if prefix:
            lines = [{**line, "arm": prefix + line["arm"]} for line in lines]
            named = tuple(attrs.evolve(arm, name=prefix + arm.name) for arm in results.arms)
            bases = tuple(
                attrs.evolve(base, arms=tuple(prefix + arm for arm in base.arms))
                for base in results.unsteered
            )
            notes = tuple(prefix + note for note in results.notes)
            results = attrs.evolve(results, arms=named, unsteered=bases, notes=notes)
        return cls(folder, results, lines, facts, text, SAMPLES not in without)


def write_page(folders: Sequence[Path], target: Path, without: Container[str] = ()) -> None:
    """Write the page of one run, or of several together.

    Args:
        folders: of the runs.
        target: the file.
        without: what is damaged in a single run, and left out.

    Raises:
        PartError: a folder holds no results, or something else in it is damaged.
    """
    if len(folders) == 1:
        runs = [RunPage.of(folders[0], without=without)]
    else:
        names = _short_names(folders)
        runs = [
            RunPage.of(folder, f"{name}: ") for folder, name in zip(folders, names, strict=True)
        ]
    write(target, page(runs))


def page(runs: Sequence[RunPage]) -> str:
    """The page, as HTML."""
    results = _joined(runs)
    arms = [(run, arm) for run in runs for arm in run.results.arms]
    names = [arm.name for _, arm in arms]
    heads, cells = _table(runs)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("align.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    sampled = [(run, arm) for run, arm in arms if arm.samples and run.has_samples]
    return environment.get_template("report.html").render(
        title=", ".join(_short_names([run.folder for run in runs])),
        runs=[_facts(run) for run in runs],
        notes=[visible(note) for note in results.all_notes()],
        colours=dict(zip(names, _colours(len(names)), strict=True)),
        pictures=_pictures(sampled),
        clouds=list(_clouds(sampled)),
        strips=list(_strips(arms)),
        heads=heads,
        cells=cells,
        plans=_plans(results),
        prices=list(_prices(results)),
        judges=list(_judges(results)),
        swept=[_plot(f"{p.name} over {p.factor}", p.draw) for p in FactorPanel.of(results)],
        curves=list(_curves(runs, names)),
        studies=list(_studies(results)),
    )


def _joined(runs: Sequence[RunPage]) -> RunResults:
    """The numbers of all runs."""
    rewards = {name: role for run in runs for name, role in run.results.rewards.items()}
    return RunResults(
        rewards=rewards,
        arms=tuple(arm for run in runs for arm in run.results.arms),
        unsteered=tuple(base for run in runs for base in run.results.unsteered),
        notes=(
            *_notes_of_weights(runs),
            *(note for run in runs for note in run.results.notes),
        ),
    )


def _notes_of_weights(runs: Sequence[RunPage]) -> Iterator[str]:
    """That r, which is plotted for all runs, is not the same in each."""
    sampled = [run for run in runs if run.results.sampled()]
    sums = [
        " + ".join(
            f"{role.weight:g} · {name}"
            for name, role in run.results.rewards.items()
            if not role.held_out
        )
        for run in sampled
    ]
    if len(set(sums)) > 1:
        names = _short_names([run.folder for run in sampled])
        each = ", and ".join(
            f"in {name} it is {text}" for name, text in zip(names, sums, strict=True)
        )
        yield (
            f"r is not the same in these runs: {each}. Plots of r compare unlike numbers; the"
            " columns of each reward do not."
        )


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; with as many of the folders around them as tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return [visible(name) for name in names]


def _colours(count: int) -> list[str]:
    """Colours of the arms in the plots, as CSS has them."""
    from matplotlib import colors

    return [str(colors.to_hex(f"C{number % 10}")) for number in range(count)]


def _facts(run: RunPage) -> dict[str, Any]:
    """What is said of a run: when, where, by which command, of which parts."""
    about = run.about
    libraries = about.get("libraries")
    origins = about.get("origins")
    return {
        "folder": visible(str(run.folder)),
        "command": visible(str(about.get("command", ""))),
        "again": visible(shlex.join(["align", "run", str(run.folder / RECIPE)])),
        "time": str(about.get("time", ""))[:16].replace("T", " "),
        "machine": visible(", ".join(str(about[k]) for k in ("host", "machine") if k in about)),
        "libraries": libraries if isinstance(libraries, dict) else {},
        "origins": origins if isinstance(origins, dict) else {},
        "recipe": run.recipe,
    }


def _table(runs: Sequence[RunPage]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Heads, and cells with what they are sorted by; columns that one run lacks are empty there."""
    tables = [rows(run.folder, run.results) for run in runs if not run.results.studies()]
    heads = list(dict.fromkeys(head for own, _ in tables for head in own))
    named = [dict(zip(own, line, strict=True)) for own, lines in tables for line in lines]
    kept = [head for head in heads if any(cells.get(head) for cells in named)]
    return kept, [
        [(cells.get(head, ""), _order(cells.get(head, ""))) for head in kept] for cells in named
    ]


def _order(cell: str) -> str:
    """The number that a cell begins with; the cell itself where it begins with none."""
    number = re.match(r"-?\d+(\.\d+)?(e[+-]?\d+)?", cell.replace(",", ""))
    return number[0] if number else cell


# Pictures -------------------------------------------------------------------------------------


@final
@attrs.frozen
class Shown:
    """A picture of a sample, as a data URI, with the sample's scores."""

    source: str
    scores: Mapping[str, str] = attrs.field(factory=dict)


@final
@attrs.frozen
class Column:
    """The pictures of one arm, or of what samples are to be seen beside."""

    name: str
    pictures: tuple[Shown, ...]


def _pictures(sampled: Sequence[tuple[RunPage, ArmNumbers]]) -> dict[str, Any] | None:
    """Columns of pictures with their scores; None where the samples are no pictures."""
    files = {arm.name: shown_files(run.folder, arm) for run, arm in sampled}
    files = {name: paths for name, paths in files.items() if paths}
    if not files:
        return None
    everything = [path for paths in files.values() for path in paths]
    small = opened(everything[0]).pil.height < 128
    encode = _encoder(everything)
    columns = [
        Column(
            arm.name,
            tuple(
                Shown(encode(path), run.results.scores_of(arm, number))
                for number, path in enumerate(files[arm.name])
            ),
        )
        for run, arm in sampled
        if arm.name in files
    ]
    given = [
        Column(name, (Shown(encode(path)),))
        for run in dict.fromkeys(run for run, _ in sampled)
        for name, path in given_files(run.folder)
    ]
    return {
        "columns": columns,
        "given": given,
        "count": max(len(column.pictures) for column in columns),
        "all": max(arm.samples for _, arm in sampled),
        "small": small,
    }


def _encoder(files: Sequence[Path]) -> Any:
    """Makes data URIs of pictures so small that all of these together are no more than `_BYTES`."""
    if sum(path.stat().st_size for path in files) <= _BYTES:
        return partial(_data_uri, side=None)
    for side in _SIDES:
        if sum(len(_jpeg(path, side)) for path in files) <= _BYTES:
            return partial(_data_uri, side=side)
    return partial(_data_uri, side=_SIDES[-1])


def _data_uri(path: Path, *, side: int | None) -> str:
    data = path.read_bytes() if side is None else _jpeg(path, side)
    kind: Literal["png", "jpeg"] = "png" if side is None else "jpeg"
    return data_uri(data, kind)


def _jpeg(path: Path, side: int) -> bytes:
    """A picture with at most so many pixels a side, as JPEG."""
    picture = opened(path).pil
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=85)
    return file.getvalue()


def _strips(arms: Sequence[tuple[RunPage, ArmNumbers]]) -> Iterator[dict[str, Any]]:
    """Pictures on the way, of each arm that kept some: of draws, or of what training makes."""
    for run, arm in arms:
        paths = sorted((run.folder / "looks" / Path(arm.folder).name).glob("*.png"))
        if not paths:
            continue
        shown = [paths[place] for place in frames(len(paths))]
        encode = _encoder(shown)
        yield {
            "name": arm.name,
            "draws": not any("loss" in line for line in run.lines if line["arm"] == arm.name),
            "frames": [(f"step {int(path.stem)}", encode(path)) for path in shown],
        }


def _plans(results: RunResults) -> list[list[str]]:
    """What each arm was said to cost, and what it cost: calls, operations, seconds, memory."""
    lines = list[list[str]]()
    for arm in results.arms:
        if arm.plan is not None:
            plan, cost = arm.plan, arm.cost
            pairs = [
                (f"{plan.nfe:,}", f"{cost.nfe:,}"),
                (f"{plan.rewards:,}", f"{cost.rewards:,}"),
                (f"{plan.flops / 1e9:,.3g}", f"{cost.flops / 1e9:,.3g}"),
                (f"{plan.seconds:.1f}" if plan.seconds else "", f"{cost.steady_seconds:.1f}"),
                (f"{plan.memory / 1e9:.2f}", f"{cost.memory / 1e9:.2f}"),
            ]
            lines.append([arm.name, *itertools.chain(*pairs)])
    return lines


# Plots ----------------------------------------------------------------------------------------


@final
@attrs.frozen
class Plot:
    """An SVG with a sentence about it."""

    title: str
    svg: Markup
    sentence: str = ""


def _plot(title: str, draw: Any, sentence: str = "") -> Plot:
    return Plot(title, Markup(drawn(title, draw)), sentence)  # matplotlib escapes


def _clouds(sampled: Sequence[tuple[RunPage, ArmNumbers]]) -> Iterator[Plot]:
    """Samples that are points in the plane, an arm a plot."""
    places = [
        (arm.name, run.folder / arm.folder)
        for run, arm in sampled
        if not shown_files(run.folder, arm)
    ]
    for shown in Cloud.of(places):
        yield _plot(shown.name + shown.left_out, shown.draw)


def _prices(results: RunResults) -> Iterator[Plot]:
    """What reward was paid for it: in calls, in seconds, in nats."""
    if not any(arm.divergence is not None for arm in results.arms):
        return
    calls = "Further up is better, further left is cheaper. NFE counts rows through the network."
    band = (
        " The grey band is the best of n unsteered samples at the same price: a method that lies"
        " above it does what sampling again and again cannot."
    )
    with_band = band if any(base.r for base in results.unsteered) else ""
    yield _plot(
        "r over network calls",
        partial(reward_over, results=results, price="calls"),
        calls + with_band,
    )
    yield _plot(
        "r over seconds",
        partial(reward_over, results=results, price="seconds"),
        "The same by the clock of this machine.",
    )
    if results.prices:
        yield _plot(
            "r over price",
            partial(reward_over, results=results, price="money"),
            "The same by the money that services ask for scores while an arm runs.",
        )
    if any(base.r for base in results.unsteered):
        yield _plot(
            "r over distance from the base model",
            partial(reward_over_divergence, results=results),
            "How far the samples' law is from the base model's. Nothing lies above the grey curve;"
            " the star on it is the law p e^r that steering aims at. An open point with an arrow"
            " is known from below alone.",
        )


def _judges(results: RunResults) -> Iterator[Plot]:
    """Whether judges that nobody optimised agree with r."""
    grey = " Grey points are unsteered samples: what this judge says of like r without steering."
    grey = grey if any(base.r for base in results.unsteered) else ""
    for name, role in results.rewards.items():
        if role.held_out and any(arm.divergence and arm.scores.get(name) for arm in results.arms):
            yield _plot(
                f"{name}, not optimised, over r",
                partial(judged, results=results, name=name),
                "Where an arm gains r and this judge does not follow, r was won by pleasing its"
                " judge alone." + grey,
            )


def _curves(runs: Sequence[RunPage], names: Sequence[str]) -> Iterator[Plot]:
    """What became of the numbers over the steps."""
    shown = panels([line for run in runs for line in run.lines])
    label = step_label(shown)

    def draw(panel: Panel, axes: Any) -> None:
        panel.draw(axes, names)
        axes.set_xlabel(label)

    for panel in shown:
        told = meaning(panel.name)
        yield _plot(told.label, partial(draw, panel), told.sentence)


def _studies(results: RunResults) -> Iterator[dict[str, Any]]:
    """Tables and plots of studies."""
    studies = results.studies()
    if not studies:
        return
    heads, cells = study_rows(studies)
    yield {
        "heads": heads,
        "cells": [[(cell, _order(cell)) for cell in line] for line in cells],
        "notes": study_notes(studies),
        "plots": [
            _plot(plot_text(name) or "study", partial(study_panel, arms=studies, name=name))
            for name in panel_names(studies)
        ],
    }
