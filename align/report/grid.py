"""The picture of a comparison: a column an arm, a row a sample, rows from the same noise.

Pictures that samples are to be seen beside come first, in a column of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from align.io.images import save_picture
from align.report.schema import ArmNumbers

MOST_ROWS = 16
SMALLEST = 96


def grid(folder: Path, arms: Sequence[ArmNumbers]) -> None:
    """Write grid.png, if the arms made pictures."""
    columns = [sorted((folder / arm.folder).glob("*.png"))[:MOST_ROWS] for arm in arms]
    if not all(columns):
        return
    names = [arm.name for arm in arms]
    if given := sorted((folder / "given").glob("*.png")):
        columns.insert(0, given)
        names.insert(0, ", ".join(path.stem.partition("_")[2].replace("_", " ") for path in given))
    with Image.open(columns[-1][0]) as first:
        zoom = max(1, -(-SMALLEST // first.height))
        width, height = first.width * zoom, first.height * zoom
    gap, font = 6, ImageFont.load_default(13)
    heads = [_wrapped(name, width + gap, font) for name in names]
    top = 8 + 16 * max(head.count("\n") + 1 for head in heads)
    rows = max(map(len, columns))
    size = (len(columns) * (width + gap) + gap, top + rows * (height + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (head, files) in enumerate(zip(heads, columns, strict=True)):
        left = gap + number * (width + gap)
        draw.multiline_text((left, 4), head, fill="black", font=font, spacing=2)
        for row, file in enumerate(files):
            picture = Image.open(file).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, top + row * (height + gap)))
    save_picture(folder / "grid.png", np.asarray(sheet))


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text with line breaks, so that no line is wider than `width` if words allow."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width - 6:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
