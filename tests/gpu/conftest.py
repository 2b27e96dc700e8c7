"""The device of the tests in this folder."""

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """All tests of this folder that need a device are marked "gpu"."""
    for item in items:
        if item.path.parent == HERE and "device" in item.fixturenames:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device(request, monkeypatch):
    """The device of `--gpu-device`; skips where torch sees no CUDA device and one is asked for."""
    name = request.config.getoption("gpu_device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    # Products with 10 bits of mantissa, torch's default in convolutions, would hide mistakes.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device(name)
