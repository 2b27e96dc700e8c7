"""The plugin's parts, by the checks of their contracts."""

import atexit
import shutil
import tempfile
from pathlib import Path

import torch.nn.functional as F
from align_classifier.testing import small_dinov2
from align_likeness import DinoLikeness, Lpips
from align_likeness.testing import small_lpips
from PIL import Image

from align import Streams
from align.testing import conformance


def noise(rows, height, width):
    coarse = Streams(4, tuple(range(rows))).uniform((3, 5, 5)).float()
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def _made(kind):
    def make():
        folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, folder)
        Image.fromarray((noise(1, 64, 64)[0] * 255).byte().permute(1, 2, 0).numpy()).save(
            folder / "picture.png"
        )
        picture = str(folder / "picture.png")
        if kind == "lpips":
            return Lpips(picture=picture, weights=str(small_lpips("alex", folder)))
        return DinoLikeness(picture=picture, weights=str(small_dinov2(folder / "dinov2")))

    return make


def pictures():
    return noise(4, 64, 72).flip(3)


test_lpips = conformance("reward", _made("lpips"), on=pictures)
test_dinov2 = conformance("reward", _made("dinov2"), on=pictures)
