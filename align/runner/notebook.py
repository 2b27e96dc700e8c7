"""Results as a notebook shows them."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import Final

from PIL import Image

from align.io.images import data_uri
from align.io.numbers import rounded

_MOST: Final = 16  # samples
_ROW: Final = 8
_SMALLEST: Final = 128  # pixels that a picture is high


def as_html(
    title: str, rows: Sequence[Mapping[str, float]], pictures: Sequence[Image.Image]
) -> str:
    """A heading, and a cell for each of the first samples: its picture, if any, and its scores.

    Args:
        title: any text.
        rows: numbers of each sample, by name.
        pictures: of each sample; none of samples that are vectors.
    """
    cells = []
    for number, row in enumerate(rows[:_MOST]):
        lines = [f"{html.escape(name)} {rounded(value)}" for name, value in row.items()]
        if pictures:
            lines.insert(0, f'<img src="{_data_uri(pictures[number])}" height="{_SMALLEST}">')
        cells.append(f"<td>{'<br>'.join(lines)}</td>")
    table = "".join(
        f"<tr>{''.join(cells[start : start + _ROW])}</tr>" for start in range(0, len(cells), _ROW)
    )
    return f"<p>{html.escape(title)}</p><table>{table}</table>"


def _data_uri(picture: Image.Image) -> str:
    """A picture, small ones enlarged without smoothing."""
    zoom = max(1, -(-_SMALLEST // picture.height))
    size = (picture.width * zoom, picture.height * zoom)
    file = io.BytesIO()
    picture.resize(size, Image.Resampling.NEAREST).save(file, "PNG")
    return data_uri(file.getvalue(), "png")
