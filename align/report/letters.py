"""Names of arms and rewards in pictures: as they are spelled, in fonts that have their letters."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from align.io.text import shortened, visible

FIRST = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
"""A font with the letters of Latin, Greek, Cyrillic, Hebrew and Arabic; it is always there."""


def plot_text(text: str, letters: int = 44) -> str:
    """Text for a plot: one line, no formula, and no letter that no installed font has."""
    drawn = _spelled(shortened(text, letters), _known_letters(text))
    # A label that begins with an underscore is left out of legends.
    return (" " + drawn if drawn.startswith("_") else drawn).replace("$", r"\$")


@contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Draw plots with installed fonts that have the letters of these texts."""
    families = dict.fromkeys(_family(path) for path in _fallbacks(_letters("".join(texts))))
    usual = list(matplotlib.rcParams["font.family"])
    with (
        matplotlib.rc_context({"font.family": [*usual, *families]}),
        warnings.catch_warnings(),
    ):
        # Letters that no font has are spelled otherwise; plots in other libraries may have them.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def head(text: str, letters: int = 60) -> str:
    """Text above a column of pictures, in letters that its font has."""
    return _spelled(shortened(text, letters), _charmap(_head_path(text)))


def head_font(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font that has the letters of a text, as far as one of those installed does."""
    path = None if text.isascii() else _head_path(text)
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(str(path), size)


def _head_path(text: str) -> Path:
    """The font with most of the letters of a text."""
    letters = _letters(text)
    return max((FIRST, *_fallbacks(letters)), key=lambda path: len(letters & _charmap(path)))


def _letters(text: str) -> frozenset[int]:
    return frozenset(map(ord, visible(text)))


def _spelled(text: str, known: frozenset[int]) -> str:
    """The text with escapes in place of letters that are not known."""
    return "".join(
        letter if ord(letter) in known else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def _known_letters(text: str) -> frozenset[int]:
    """Those of the letters of a text that one of the installed fonts has, and all of the usual."""
    fonts = (FIRST, *_fallbacks(_letters(text)))
    return frozenset().union(*map(_charmap, fonts))


@functools.lru_cache(maxsize=64)
def _fallbacks(letters: frozenset[int]) -> tuple[Path, ...]:
    """Installed fonts that together have the letters which the usual font lacks, if there are."""
    missing, fonts = set(letters - _charmap(FIRST)), list[Path]()
    paths = sorted({Path(entry.fname) for entry in font_manager.fontManager.ttflist})
    for path in paths if missing else ():
        if has := missing & _charmap(path):
            fonts.append(path)
            missing -= has
        if not missing:
            break
    return tuple(fonts)


@functools.lru_cache(maxsize=1024)
def _charmap(path: Path) -> frozenset[int]:
    """The letters of a font; none if it cannot be read, as fonts of coloured pictures cannot."""
    try:
        font = FT2Font(str(path))
        codes = frozenset(font.get_charmap())
        if codes:
            font.load_char(min(codes))
    except (RuntimeError, OSError, ValueError):
        return frozenset()
    return codes


def _family(path: Path) -> str:
    return str(font_manager.FontProperties(fname=str(path)).get_name())
