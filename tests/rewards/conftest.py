"""Pictures on the disk, and random ones."""

import numpy as np
import pytest
import torch
from PIL import Image

from align.core.streams import Streams


@pytest.fixture
def noise():
    """Uniform numbers (rows, *shape), float64, the same for every seed."""

    def made(rows, *shape, seed=0):
        return Streams(seed, tuple(range(rows))).uniform(shape)

    return made


@pytest.fixture
def picture_of(tmp_path):
    """Write levels, (H, W) or (H, W, 3) in 0 .. 255, as a PNG; returns its path."""

    def made(levels, name="known.png"):
        Image.fromarray(np.asarray(levels, np.uint8)).save(tmp_path / name)
        return str(tmp_path / name)

    return made


@pytest.fixture
def grey_levels():
    """Levels of a picture of 8 x 6 pixels."""
    return (torch.arange(48).reshape(8, 6) * 5).numpy()


@pytest.fixture
def colour_levels(grey_levels):
    """Levels of a picture of 8 x 6 pixels in three colours."""
    return np.stack((grey_levels, 255 - grey_levels, grey_levels // 2), -1)
