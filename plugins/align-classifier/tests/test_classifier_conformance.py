"""The plugin's part, by the checks of its contract."""

import atexit
import shutil
import tempfile
from pathlib import Path

from align_classifier import Classifier, DINOv2
from align_classifier.testing import small_classifier, small_dinov2

from align import Streams
from align.testing import conformance


def small():
    """The reward with a small classifier, which goes when Python ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return Classifier(model=str(small_classifier("vit", folder)), label="tabby")


def smooth():
    return 0.2 + 0.6 * Streams(0, (0, 1)).uniform((3, 40, 40)).float()


def small_features():
    """DINOv2 with few weights, which go when Python ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return DINOv2(weights=str(small_dinov2(folder)))


test_classifier = conformance("reward", small, on=smooth)
test_dinov2 = conformance("features", small_features)
