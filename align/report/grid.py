"""The picture of a comparison: a column an arm, a row a sample, rows from the same noise.

Pictures that samples are to be seen beside come first, in a column of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from align.io.images import opened, save_picture
from align.report.letters import head, head_font
from align.report.schema import ArmNumbers

MOST_ROWS = 16
SMALLEST = 96


def grid(folder: Path, arms: Sequence[ArmNumbers]) -> None:
    """Write grid.png, if the arms made pictures."""
    columns = [sorted((folder / arm.folder).glob("*.png"))[:MOST_ROWS] for arm in arms]
    if not all(columns):
        return
    names = [head(arm.name) for arm in arms]
    if given := sorted((folder / "given").glob("*.png")):
        columns.insert(0, given)
        names.insert(0, ", ".join(path.stem.partition("_")[2].replace("_", " ") for path in given))
    first = opened(columns[-1][0]).pil
    zoom = max(1, -(-SMALLEST // first.height))
    width, height = first.width * zoom, first.height * zoom
    gap, fonts = 6, [head_font(name, 13) for name in names]
    heads = [_wrapped(name, width + gap, font) for name, font in zip(names, fonts, strict=True)]
    top = 8 + 16 * max(text.count("\n") + 1 for text in heads)
    rows = max(map(len, columns))
    size = (len(columns) * (width + gap) + gap, top + rows * (height + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (text, font, files) in enumerate(zip(heads, fonts, columns, strict=True)):
        left = gap + number * (width + gap)
        draw.multiline_text((left, 4), text, fill="black", font=font, spacing=2)
        for row, file in enumerate(files):
            picture = opened(file).pil.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, top + row * (height + gap)))
    save_picture(folder / "grid.png", np.asarray(sheet))


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
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


def _broken(word: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """A word in two: as much as fits, and the rest."""
    fits = next((n for n in range(len(word), 1, -1) if font.getlength(word[:n]) <= width - 6), 1)
    return [word[:fits], word[fits:]]
