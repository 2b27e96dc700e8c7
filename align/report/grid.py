"""The picture of a comparison: a column an arm, a row a sample, rows from the same noise.

Beneath each sample are its scores. Pictures that samples are to be seen beside come first, in a
column of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, final

import attrs
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from align.io.images import opened, save_picture
from align.report.letters import head, head_font
from align.report.schema import ArmNumbers, RunResults

MOST_ROWS = 16
"""Samples that are shown of an arm."""

SMALLEST = 144
_GAP, _LINE = 6, 16
_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@final
@attrs.frozen
class _Column:
    """Pictures below one another, with what stands above and beneath them."""

    head: str
    files: Sequence[Path]
    captions: Sequence[str]


def shown_files(folder: Path, arm: ArmNumbers) -> list[Path]:
    """Pictures of an arm's first samples; none of samples that are vectors."""
    return sorted((folder / arm.folder).glob("*.png"))[:MOST_ROWS]


def given_files(folder: Path) -> list[tuple[str, Path]]:
    """Pictures that a run's samples are to be seen beside, with their names."""
    paths = sorted((folder / "given").glob("*.png"))
    return [(path.stem.partition("_")[2].replace("_", " "), path) for path in paths]


def grid(folder: Path, results: RunResults) -> None:
    """Write grid.png, if the arms made pictures."""
    columns = [_column(folder, arm, results) for arm in results.sampled()]
    if not columns or not all(column.files for column in columns):
        return
    if given := given_files(folder):
        names, files = zip(*given, strict=True)
        columns.insert(0, _Column(", ".join(names), files, [""] * len(given)))
    first = opened(columns[-1].files[0]).pil
    zoom = max(1, -(-SMALLEST // first.height))
    width, height = first.width * zoom, first.height * zoom
    total = len(columns) * (width + _GAP) + _GAP
    scored = any(text for column in columns for text in column.captions)
    deep = height + _GAP + _LINE * scored
    rewards = " / ".join(map(head, results.reward_heads().values()))
    legend = _Text.within(f"beneath each sample: {rewards}" if scored else "", total, 12)
    heads = [_Text.within(column.head, width + _GAP, 13) for column in columns]
    top = legend.height + 8 + max(text.height for text in heads)
    rows = max(len(column.files) for column in columns)
    sheet = Image.new("RGB", (total, top + rows * deep + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    legend.put(draw, _GAP, 4, "dimgray")
    for number, (text, column) in enumerate(zip(heads, columns, strict=True)):
        left = _GAP + number * (width + _GAP)
        text.put(draw, left, legend.height + 4)
        for row, (file, caption) in enumerate(zip(column.files, column.captions, strict=True)):
            picture = opened(file).pil.resize((width, height), Image.Resampling.NEAREST)
            y = top + row * deep
            sheet.paste(picture, (left, y))
            draw.text(
                (left, y + height + 1), caption, fill="dimgray", font=_fitting(caption, width)
            )
    save_picture(folder / "grid.png", np.asarray(sheet))


def _column(folder: Path, arm: ArmNumbers, results: RunResults) -> _Column:
    """The samples of an arm, with their scores."""
    files = shown_files(folder, arm)
    captions = [" / ".join(results.scores_of(arm, row).values()) for row in range(len(files))]
    return _Column(head(arm.name), files, captions)


@final
@attrs.frozen
class _Text:
    """Lines of text in a font."""

    text: str
    font: _Font

    @classmethod
    def within(cls, text: str, width: int, size: int) -> _Text:
        """A text in lines that are no wider."""
        font = head_font(text, size)
        return cls(_wrapped(text, width, font), font)

    @property
    def height(self) -> int:
        """Of all lines; 0 where there is no text."""
        return _LINE * (self.text.count("\n") + 1) if self.text else 0

    def put(self, draw: ImageDraw.ImageDraw, left: int, top: int, colour: str = "black") -> None:
        """Draw it."""
        draw.multiline_text((left, top), self.text, fill=colour, font=self.font, spacing=2)


def _fitting(text: str, width: int) -> _Font:
    """A font in which the text is no wider, if one that can be read has it so."""
    sizes = (12, 11, 10, 9)
    fonts = (ImageFont.load_default(size) for size in sizes)
    return next((f for f in fonts if f.getlength(text) <= width), ImageFont.load_default(sizes[-1]))


def _wrapped(text: str, width: int, font: _Font) -> str:
    """The text with line breaks, between words if they allow, so that no line is wider."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width - 6:
            lines.append(word)
        else:
            lines[-1] = longer
        while font.getlength(lines[-1]) > width - 6 and len(lines[-1]) > 1:
            lines[-1:] = _broken(lines[-1], width, font)
    return "\n".join(lines)


def _broken(word: str, width: int, font: _Font) -> list[str]:
    """A word in two: as much as fits, and the rest."""
    fits = next((n for n in range(len(word), 1, -1) if font.getlength(word[:n]) <= width - 6), 1)
    return [word[:fits], word[fits:]]
