"""The plugin's part, by the checks of its contract."""

import atexit
import shutil
import tempfile
from pathlib import Path

from align_classifier import Classifier
from align_classifier.testing import small_classifier

from align import Streams
from align.testing import conformance


def small():
    """The reward with a small classifier, which goes when Python ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return Classifier(model=str(small_classifier("vit", folder)), label="tabby")


def smooth():
    return 0.2 + 0.6 * Streams(0, (0, 1)).uniform((3, 40, 40)).float()


test_classifier = conformance("reward", small, on=smooth)
