"""What a study found, as a table and as a plot."""

import json
from pathlib import Path

import attrs
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from align.core.study import Findings, Point
from align.report import study as report
from align.report.study import study_rows
from align.report.writer import write


def finding(*points, notes=(), ratios=True):
    """A study's findings from (panel, calls, value)."""
    points = tuple(Point(*point) for point in points)
    return Findings("distance_of_sets", "NFE a draw", points, tuple(notes), ratios)


@pytest.fixture
def arms(arm_of):
    curves = {
        "exact": [("t = 0.1", 0.0, 0.5), ("t = 0.5", 0.0, 0.25)],
        "MFM": [("t = 0.1", 1.0, 1.0), ("t = 0.5", 1.0, 0.75), ("t = 0.1", 2.0, 0.8)],
        "GLASS": [(f"t = {t}", k, t + 4 / k) for k in (1.0, 3.0, 31.0) for t in (0.1, 0.5)],
    }
    return [
        arm_of(name, number, 0, findings=finding(*points, notes=["A note."]))
        for number, (name, points) in enumerate(curves.items())
    ]


def test_a_row_has_an_arm_and_its_calls(arms):
    heads, cells = study_rows(arms)
    assert heads == ["distance_of_sets", "NFE a draw", "t = 0.1", "t = 0.5"]
    assert cells[:4] == [
        ["exact", "0", "0.5", "0.25"],
        ["MFM", "1", "1", "0.75"],
        ["MFM", "2", "0.8", ""],
        ["GLASS", "1", "4.1", "4.5"],
    ]
    assert len(cells) == 6
    alone = [attrs.evolve(arms[0], findings=finding(("", 2.0, 0.5)))]
    assert study_rows(alone) == (
        ["arm", "NFE a draw", "distance_of_sets"],
        [["exact", "2", "0.5"]],
    )


def test_a_known_error_stands_beside_its_value(arms):
    points = (Point("", 2.0, 0.512, 0.031), Point("", 4.0, 0.25))
    alone = [attrs.evolve(arms[0], findings=Findings("d", "NFE", points))]
    assert [row[2] for row in study_rows(alone)[1]] == ["0.512 ± 0.031", "0.25"]


def test_a_study_has_a_table_and_a_plot(arms, folder_of):
    folder = folder_of(*arms)
    lines = [json.dumps({"arm": "MFM", "step": step, "t": 0.1}) for step in range(3)]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    write(folder)
    text = (folder / "study.md").read_text()
    assert text.startswith("| distance_of_sets | NFE a draw | t = 0.1 | t = 0.5 |\n")
    assert text.count("A note.") == 1
    assert np.asarray(Image.open(folder / "study.png")).std() > 10
    for not_made in ("table.md", "curves.png"):
        assert not (folder / not_made).exists()


def drawn(arms, monkeypatch):
    figures = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: figures.append(figure))
    report.plot(Path(), arms)
    assert isinstance(figures[0], Figure)
    return figures[0]


def test_the_plot_shows_what_was_found(arms, monkeypatch):
    figure = drawn(arms, monkeypatch)
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["t = 0.1", "t = 0.5"]
    assert first.get_xlabel() == "NFE a draw"
    assert first.get_ylabel() == "distance of sets"
    level, mfm, glass = first.get_lines()
    assert set(level.get_ydata()) == {0.5}
    assert level.get_linestyle() == "--"
    assert [list(xy) for xy in mfm.get_xydata()] == [[1, 1], [2, 0.8]]
    assert [x for x, _ in glass.get_xydata()] == [1, 3, 31]
    assert list(first.get_xticks()) == [1, 2, 4, 8, 16]
    assert first.get_xscale() == "log"
    assert first.get_ylim() == second.get_ylim()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "exact, no calls",
        "MFM",
        "GLASS",
    ]
    colours = {line.get_color() for line in (mfm, glass)}
    assert colours == {"C0", "C1"}


def test_the_scale_suits_the_values(arms, arm_of, monkeypatch):
    assert drawn(arms[:2], monkeypatch).axes[0].get_yscale() == "linear"
    wide = arm_of("far", 3, 0, findings=finding(("t = 0.1", 1.0, 100.0)))
    assert drawn([*arms, wide], monkeypatch).axes[0].get_yscale() == "log"
    odds = arm_of("far", 3, 0, findings=finding(("t = 0.1", 1.0, 100.0), ratios=False))
    assert drawn([odds, *arms], monkeypatch).axes[0].get_yscale() == "linear"
    below = arm_of("below", 3, 0, findings=finding(("t = 0.1", 1.0, -100.0)))
    assert drawn([*arms, below], monkeypatch).axes[0].get_yscale() == "linear"
    free = [arm_of("free", 0, 0, findings=finding(("", 0.0, 1.0)))]
    assert drawn(free, monkeypatch).axes[0].get_title() == ""


@pytest.fixture
def measured(arm_of):
    """Two arms with two measures, one of them with an error, and one that the second lacks."""
    points = [Point("SW2", 288.0, 0.123, 0.0456), Point("r", 288.0, -3.0)]
    return [
        arm_of(name, number, 0, findings=Findings("", "NFE a sample", tuple(some), measures=True))
        for number, (name, some) in enumerate([("exact", points), ("other", points[:1])])
    ]


def test_measures_have_a_column_each_with_their_errors(measured):
    assert study_rows(measured) == (
        ["arm", "NFE a sample", "SW2", "r"],
        [["exact", "288", "0.123 ± 0.046", "-3"], ["other", "288", "0.123 ± 0.046", ""]],
    )


def test_measures_are_drawn_in_units_of_their_own(measured, folder_of, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: drawn.append(figure))
    folder = folder_of(*measured)
    report.plot(folder, measured)
    first, second = drawn[0].axes
    assert [first.get_title(), second.get_title()] == ["SW2", "r"]
    assert first.get_xlim() != second.get_xlim()
    assert [text.get_text() for text in first.get_yticklabels()] == ["exact", "other"]
    assert len(first.containers) == 2
    assert len(second.containers) == 1
