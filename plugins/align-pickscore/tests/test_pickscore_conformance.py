"""The reward `pickscore`, by the checks of its contract."""

import atexit
import shutil
import tempfile
from pathlib import Path

from align_clip.testing import small_folder, small_state, small_tokenizer
from align_pickscore import PickScore

from align.testing import conformance


def small():
    """The reward with a small checkpoint, which goes when Python ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    small_folder(small_state(), folder, "gelu")
    tokenizer = small_tokenizer(folder / "tokenizer.json")
    return PickScore(weights=str(folder), tokenizer=str(tokenizer))


test_pickscore = conformance("reward", small)
