"""The plugin's part, by the checks of its contract."""

import pytest
from align_ocr import Ocr

from align import Streams
from align.testing import conformance

pytest.importorskip("rapidocr_onnxruntime", reason="rapidocr-onnxruntime is not installed")


def specks():
    return Streams(0, (0, 1)).uniform((3, 32, 48)).float()


test_ocr = conformance("reward", lambda: Ocr(text="cat", side=32), on=specks)
