"""The reward `hpsv2`, by the checks of its contract."""

import atexit
import shutil
import tempfile
from pathlib import Path

import torch
from align_clip.testing import small_state, small_tokenizer
from align_hpsv2 import HPSv2

from align.testing import conformance


def small():
    """The reward with a small checkpoint, which goes when Python ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    torch.save(small_state(), folder / "small.pt")
    tokenizer = small_tokenizer(folder / "tokenizer.json")
    return HPSv2(weights=str(folder / "small.pt"), tokenizer=str(tokenizer))


test_hpsv2 = conformance("reward", small)
