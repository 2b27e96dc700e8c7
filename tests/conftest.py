"""What tests of several folders use."""

import random
import signal
import socket
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import settings

from align.testing.fake_device import fake_device
from tests.forked import Forked

# The same few examples every time, and no clock: what fails, fails again.
settings.register_profile("align", max_examples=25, derandomize=True, deadline=None, database=None)
settings.load_profile("align")


# A shell's background jobs and nohup ignore signals, and tests of Ctrl-C need them.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


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


@pytest.fixture(scope="module")
def unpainted():
    """Plots are made and not painted, which takes longer than a tiny run; tests/report paints."""

    def save_figure(figure, path):
        path.write_text(f"{len(figure.axes)} panels")

    with pytest.MonkeyPatch.context() as patched:
        for module in ("plots", "study"):
            patched.setattr(f"align.report.{module}.save_figure", save_figure)
        patched.setattr("align.report.svg.to_svg", lambda figure, name: "<svg></svg>")
        yield


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


@pytest.fixture
def forked(tmp_path_factory):
    """Start programs as `tests.forked.Forked` says; those that still run afterwards are killed."""
    started = []

    def start(program, *arguments, **options):
        folder = tmp_path_factory.mktemp("forked")
        started.append(Forked(folder, program, *arguments, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def forked_pytest(forked):
    """Start pytest in a folder, with the tests that lie there; a warning is an error."""

    def start(folder, *options, **how):
        # Where align is installed as a wheel, pytest would rewrite what the fork has imported.
        already = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
        options = ("-p", "no:cacheprovider", "-W", "error", "-W", already, *options)
        return forked("pytest", *options, folder, cwd=folder, **how)

    return start
