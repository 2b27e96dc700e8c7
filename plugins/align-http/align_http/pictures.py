"""Pictures as services are sent them."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def base64_png(picture: np.ndarray) -> str:
    """A picture (H, W, 3) of bytes as PNG, in letters."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()
