"""The plugin's parts, by the checks of their contracts."""

import atexit
import shutil
import tempfile
from pathlib import Path

import torch
from align_clip import Aesthetic, Clip, ClipImage
from align_clip.testing import small_state, small_tokenizer

from align import Streams
from align.testing import conformance


def small():
    """The reward with a small checkpoint, which goes when Python ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    torch.save(small_state(), folder / "small.pt")
    tokenizer = small_tokenizer(folder / "tokenizer.json")
    return Clip(weights=str(folder / "small.pt"), tokenizer=str(tokenizer), activation="gelu")


def marked():
    """A head of one layer on the small checkpoint."""
    part = small()
    head = Path(part.weights).with_name("head.pth")
    width = small_state()["visual.proj"].shape[1]
    weight = 0.5 * Streams(0, (0,)).normal((1, width)).float()[0]
    torch.save({"weight": weight, "bias": torch.tensor([5.0])}, head)
    return Aesthetic(
        head=str(head), weights=part.weights, tokenizer=part.tokenizer, activation="gelu"
    )


def small_features():
    """The picture tower of the small checkpoint."""
    return ClipImage(weights=small().weights, activation="gelu")


test_aesthetic = conformance("reward", marked)
test_clip = conformance("reward", small)
test_clip_image = conformance("features", small_features)
