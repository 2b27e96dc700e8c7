"""What a reward of another machine costs beside the same one here, and that it says the same.

The other machine is this one: a server of `align serve` in a process of its own, on loopback, so
that what is measured is the way there and back without a network's own time. Times are of the wall
clock, since two processes take part.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from align import load_catalog, read_part
from align.rewards.python import Python
from benchmarks.speed.isolation import CODE, table
from benchmarks.speed.timing import CPU, Sizes
from benchmarks.table import Table


def tables(sizes: Sizes) -> Iterator[Table]:
    """Milliseconds a call of scores, and of scores with the vector-Jacobian product."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reward.py"
        file.write_text(CODE)
        here = Python(file=str(file)).build(CPU)
        with _served(f'{{ kind = "python", file = "{file}" }}') as url:
            reward = {"kind": "remote", "url": url, "reward": {"kind": "python"}}
            part = read_part("reward", reward, load_catalog())
            try:
                yield table(here, part.build(CPU), sizes, "remote")
            finally:
                part.close()


@contextmanager
def _served(reward: str) -> Iterator[str]:
    """The URL of a server of a reward, in a process of its own."""
    command = [sys.executable, "-m", "align", "serve", reward, "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = (line for line in process.stdout if line.startswith("serving at "))
            yield next(lines).split()[2]
        finally:
            process.kill()
