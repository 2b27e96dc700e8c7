"""What tests of several folders use."""

import random
import socket
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import settings

from align.testing.fake_device import fake_device

# The same few examples every time, and no clock: what fails, fails again.
settings.register_profile("align", max_examples=25, derandomize=True, deadline=None, database=None)
settings.load_profile("align")


def pytest_addoption(parser):
    """Where the bodies of tests/gpu run."""
    parser.addoption(
        "--gpu-device",
        default="cuda",
        choices=("cuda", "cpu"),
        help="device of tests/gpu: 'cuda', skipped where there is none, or 'cpu'",
    )


@pytest.fixture(autouse=True)
def same_seeds():
    """Every test begins with the same state of all generators, whichever ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that looks for another machine fails at once; this one, by its own names, is there."""
    connect = socket.socket.connect

    def local(self, address):
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1", socket.gethostname()):
            raise RuntimeError(f"tests use no network, and this one connects to {host}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)


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
