"""What tests of several folders use."""

from contextlib import contextmanager

import pytest
import torch

from align.testing.fake_device import fake_device


def pytest_addoption(parser):
    """Where the bodies of tests/gpu run."""
    parser.addoption(
        "--gpu-device",
        default="cuda",
        choices=("cuda", "cpu"),
        help="device of tests/gpu: 'cuda', skipped where there is none, or 'cpu'",
    )


@pytest.fixture
def other_device(monkeypatch):
    """A context in which recipes may ask for "cuda": CUDA, or where there is none what acts so."""

    @contextmanager
    def there():
        with monkeypatch.context() as patched:
            if torch.cuda.is_available():
                # Products with 10 bits of mantissa, torch's default there, would hide mistakes.
                patched.setattr(torch.backends.cudnn, "allow_tf32", False)
                yield
                return
            with fake_device() as device:
                patched.setattr("align.runner.session.device_of", lambda name: device)
                yield

    return there
