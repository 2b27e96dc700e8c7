"""Names in pictures."""

import warnings

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from align.report.letters import FIRST, fonts_for, head, head_font, plot_text

NAMES = (
    "[/]",
    "$x_{$",
    "$_$",
    "_hidden",
    r"\$",
    "a|b",
    "two\nlines",
    "<b>",
    "x" * 3000,
    "一次抽样",
)
NAMES = (*NAMES, "👩‍🚀", "שלום", "مرحبا", "\u202eback", "\x1b[2J", "", "ab\u0301c")


def test_any_name_is_drawn_without_a_warning():
    with warnings.catch_warnings(), fonts_for(NAMES):
        warnings.simplefilter("error")
        # As matplotlib warns by itself: of letters that no font has.
        figure = Figure(figsize=(4, 4))
        axes = figure.add_subplot()
        for number, name in enumerate(NAMES):
            axes.plot([0, 1], [number, number], label=plot_text(name))
        axes.set_title(plot_text("$x_{$"))
        axes.legend()
        FigureCanvasAgg(figure).draw()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(labels) == len(NAMES) - 1  # all but the empty one
    assert len(set(labels)) == len(labels)
    assert max(map(len, labels)) < 100


def test_letters_that_no_font_has_are_spelled_out(monkeypatch):
    monkeypatch.setattr("align.report.letters._fallbacks", lambda letters: ())
    assert plot_text("一 é") == "\\u4e00 é"
    assert head("一 é") == "\\u4e00 é"


def test_fonts_that_have_the_letters_are_used(monkeypatch, tmp_path):
    monkeypatch.setattr("align.report.letters._fallbacks", lambda letters: (FIRST,))
    assert plot_text("é") == "é"
    unreadable = tmp_path / "font.ttf"
    unreadable.write_text("none")
    monkeypatch.setattr("align.report.letters._fallbacks", lambda letters: (unreadable,))
    assert plot_text("一") == "\\u4e00"


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_stand_above_pictures(name):
    draw = ImageDraw.Draw(Image.new("RGB", (200, 50)))
    draw.text((0, 0), head(name), font=head_font(name, 13))
    assert len(head(name)) <= 60 * 10
