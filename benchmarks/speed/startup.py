"""What a command costs before it does anything, in seconds of processes that are started in turn.

Each is a Python of its own, with one thread and bytecode that is there already, as where align is
installed. Time is the processor's, of the whole process; "over torch" is what there is beyond
`import torch`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.speed.timing import Sizes
from benchmarks.table import Table

RECIPE = """
[run]
samples = 2
unsteered = 0

[model]
kind = "mixture"
weights = [0.5, 0.5]
means = [[-1.0, 0.0], [1.0, 0.0]]
stds = [0.3, 0.3]

[sampler]
kind = "mfm"

[estimator]
kind = "gradient"
draws = 1

[[reward]]
kind = "likelihood"
matrix = [[1.0, 0.0]]
observed = [1.0]
std = 0.5

[mode]
kind = "steer"
steps = 2
"""
COMMANDS: Mapping[str, Sequence[str]] = {
    "python alone": ("-c", "pass"),
    "`import torch`": ("-c", "import torch"),
    "`align --help`": ("-m", "align", "--help"),
    "`align list`": ("-m", "align", "list"),
    "`align list`, when a plugin has changed": ("-m", "align", "list"),
    "`align check`": ("-m", "align", "check", "tiny.toml"),
    "`align run`: two samples, two steps": ("-m", "align", "run", "tiny.toml"),
}
ANEW = "`align list`, when a plugin has changed"
TOY = ("python alone", "`align --help`")


def tables(sizes: Sizes) -> Iterator[Table]:
    """Seconds of each command: the median, and how far its times lie apart."""
    head = ("what", "seconds", "least", "most", "over torch")
    with tempfile.TemporaryDirectory() as folder:
        yield Table("", head, rows(Path(folder), sizes))


def rows(folder: Path, sizes: Sizes) -> Iterator[tuple[str, ...]]:
    """One row a command; the first round, which writes bytecode and the listing, is not counted."""
    (folder / "tiny.toml").write_text(RECIPE)
    names = [name for name in COMMANDS if not sizes.toy or name in TOY]
    for name in names:
        seconds_of(name, folder)
    times = [{name: seconds_of(name, folder) for name in names} for _ in range(sizes.rounds)]
    median = {name: statistics.median(row[name] for row in times) for name in names}
    torch = median.get("`import torch`")
    for name in names:
        least, most = (choice(row[name] for row in times) for choice in (min, max))
        over = "" if torch is None or median[name] <= torch else f"{median[name] - torch:.2f}"
        yield name, f"{median[name]:.2f}", f"{least:.2f}", f"{most:.2f}", over


def seconds_of(name: str, folder: Path) -> float:
    """Seconds of the processor that one start of a command takes.

    Raises:
        RuntimeError: the command failed.
    """
    kept = folder / ("tiny.toml" if name == ANEW else "caches")  # no folder, so that none is kept
    environment = {
        **os.environ,
        "ALIGN_CACHE": str(kept),
        "OMP_NUM_THREADS": "1",
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with (folder / "output").open("w+b") as output:
        process = subprocess.Popen(
            [sys.executable, *COMMANDS[name]],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{name} failed: {output.read().decode(errors='replace')}")
    return usage.ru_utime + usage.ru_stime
