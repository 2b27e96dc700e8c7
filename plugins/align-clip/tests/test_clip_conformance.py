"""The reward `clip`, by the checks of its contract."""

import atexit
import shutil
import tempfile
from pathlib import Path

import torch
from align_clip import Clip
from align_clip.testing import small_state, small_tokenizer

from align.testing import conformance


def small():
    """The reward with a small checkpoint, which goes when Python ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    torch.save(small_state(), folder / "small.pt")
    tokenizer = small_tokenizer(folder / "tokenizer.json")
    return Clip(weights=str(folder / "small.pt"), tokenizer=str(tokenizer), activation="gelu")


test_clip = conformance(
    "reward", small, expect_fail={"prompts": "an empty prompt is nothing to compare with"}
)
