"""Runs the tests of this folder and writes a dated row into docs/results/gpu.md.

    python tests/gpu/record.py                  # on a CUDA device, in at most five minutes
    python tests/gpu/record.py --device cpu     # the tests' bodies on the CPU; nothing is written

Where torch sees no CUDA device it says so, and the page stays as it is. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "results" / "gpu.md"
NEVER = "| never run | | | | | |"
LIMIT = 300
"""Seconds that the tests may take."""


def tested(device: str) -> tuple[str, float]:
    """Counts of the tests by what became of them, and seconds.

    Raises:
        SystemExit: pytest ended before it had run the tests.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE)]
        options = ["-m", "gpu", "--gpu-device", device, f"--junitxml={report}"]
        try:
            subprocess.run([*command, *options], cwd=ROOT, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return f"none in time: more than {LIMIT} s", time.monotonic() - began
        if not report.exists():
            raise SystemExit("pytest wrote no report; what it printed says why")
        return counts(report), time.monotonic() - began


def counts(report: Path) -> str:
    """For instance "12 passed, 1 failed", of a report in JUnit's format."""
    found = {"passed": 0, "failed": 0, "skipped": 0}
    for case in ElementTree.parse(report).iter("testcase"):
        tags = {child.tag for child in case}
        failed = tags & {"failure", "error"}
        found["failed" if failed else "skipped" if "skipped" in tags else "passed"] += 1
    return ", ".join(f"{count} {name}" for name, count in found.items() if count) or "none"


def commit() -> str:
    """The commit of the working tree, with a + where files differ from it; "" outside of git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    head = git("rev-parse", "--short", "HEAD")
    return f"{head}{'+' if git('status', '--porcelain') else ''}" if head else ""


def row(result: str, seconds: float) -> str:
    """The row of today's run."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    versions = f"{torch.__version__}, CUDA {torch.version.cuda}"
    cells = (str(datetime.date.today()), name, versions, result, f"{seconds:.0f}", commit())
    return f"| {' | '.join(cells)} |"


def add(page: Path, line: str) -> None:
    """Put a row at the end of the page's table, in the place of "never run" if that stands there.

    Raises:
        SystemExit: the page has no table.
    """
    lines = page.read_text().splitlines()
    if NEVER in lines:
        lines[lines.index(NEVER)] = line
    else:
        rows = [number for number, text in enumerate(lines) if text.startswith("|")]
        if not rows:
            raise SystemExit(f"{page} has no table")
        lines.insert(rows[-1] + 1, line)
    page.write_text("\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and write; the exit code is 1 where a test failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing was run, and the page stays as it is")
        return 0
    result, seconds = tested(options.device)
    line = row(result, seconds)
    print(line)
    if options.device == "cuda":
        add(options.page, line)
    return int("passed" not in result or "failed" in result)


if __name__ == "__main__":
    sys.exit(main())
