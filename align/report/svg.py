"""Figures as SVG that takes the colours and letters of the page it stands in, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Colours of a figure on white paper, and what stands for them on a page.
_THEMED: Final[Mapping[str, str]] = {
    "#000000": "currentColor",
    "#ededed": "var(--line)",
    "#e6e6e6": "var(--line)",
    "#ffffff": "var(--page)",
}
# What a file of its own needs and a part of a page does not: its head, fixed size, fonts, and names
# of parts that nothing refers to (those that something does are a letter with ten digits).
_LEFT_OUT: Final = re.compile(
    r"\A.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>|(?<=1999/xlink\") width=\"\S+\""
    r" height=\"\S+\"|font-family: [^;\"]*;? ?| id=\"(?!\w[0-9a-f]{10}\")[^\"]*\"",
    re.DOTALL,
)


def drawn(
    name: str, draw: Callable[[Axes], object], *, wide: float = 4.8, high: float = 3.2
) -> str:
    """One panel as an SVG element.

    Args:
        name: unlike those of all other panels of the page.
        draw: draws into axes.
        wide: of the panel, in inches; the element becomes as wide as what it stands in.
        high: of the panel, in inches.
    """
    figure = Figure(figsize=(wide, high))
    # Looking for the best margins takes as long as all drawing.
    draw(figure.add_axes((0.16, 0.15, 0.82, 0.82)))
    return to_svg(figure, name)


def to_svg(figure: Figure, name: str) -> str:
    """A figure as an SVG element, without a background; its text stays text."""
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    text = _LEFT_OUT.sub("", file.getvalue())
    for colour, themed in _THEMED.items():
        text = text.replace(colour, themed)
    return text
