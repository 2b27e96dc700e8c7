"""Checks of trackers."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, final

import attrs
import numpy as np
import torch

from align.core.tracker import TrackedArm, Tracker
from align.testing.checks.form import form
from align.testing.probes import untouched as unmoved


@final
@attrs.frozen(eq=False)
class Kept:
    """A tracker, and what prepares the place that it writes to."""

    part: Tracker
    place: Callable[[], object]

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A run folder in a new working folder, which is gone afterwards."""
        before = Path.cwd()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            os.chdir(name)
            try:
                self.place()
                folder = Path(name) / "runs" / "a run"
                folder.mkdir(parents=True)
                yield folder
            finally:
                os.chdir(before)


def subject(part: Tracker, on: Callable[[], object] | None) -> Kept:
    """The tracker; `on` prepares what it needs, such as environment variables."""
    return Kept(part, on or (lambda: None))


def tracked_arm(folder: Path, name: str) -> TrackedArm:
    """An arm to try a tracker on, of a run with others."""
    tables = {"run": {"samples": 2, "seed": 0}, "mode": {"kind": "steer", "times": [0.5, 1.0]}}
    return TrackedArm(
        run="a run",
        name=name,
        alone=False,
        folder=folder,
        slug=name,
        recipe="[run]\nsamples = 2\nseed = 0\n",
        tables=tables,
    )


def arms(kept: Kept) -> None:
    """Two arms are open at once, are told steps, pictures and results, and are closed."""
    with kept.folder() as folder:
        opened = [kept.part.open(tracked_arm(folder, name)) for name in ("one", "other")]
        for index in range(3):
            for arm in opened:
                arm.numbers(index, {"reward": 0.5 * index, "KL at least": float("nan")})
        for arm in opened:
            arm.picture(2, np.zeros((4, 8, 3), np.uint8))
            arm.close({"a reward, with 100 %": 1.0}, failed=False)


def failed_run(kept: Kept) -> None:
    """An arm of a run that failed is closed after its first step, without results."""
    with kept.folder() as folder:
        arm = kept.part.open(tracked_arm(folder, "one"))
        arm.numbers(0, {"reward": 1.0})
        arm.close({}, failed=True)


def goes_on(kept: Kept) -> None:
    """A run that is repeated, or that goes on from a later step, is kept as well."""
    with kept.folder() as folder:
        for first in (0, 2, 0):
            arm = kept.part.open(attrs.evolve(tracked_arm(folder, "one"), first=first))
            arm.numbers(first, {"reward": 1.0})
            arm.close({"cat": 1.0}, failed=False)


def no_links(kept: Kept) -> None:
    """No link is written into the run folder, where a report would refuse it."""
    with kept.folder() as folder:
        arm = kept.part.open(tracked_arm(folder, "one"))
        arm.numbers(0, {"reward": 1.0})
        arm.close({"cat": 1.0}, failed=False)
        links = [path.name for path in folder.rglob("*") if path.is_symlink()]
        assert not links, f"{', '.join(links)} in the run folder is a link"


def quiet(kept: Kept) -> None:
    """Nothing is printed to stdout, which is the command's own."""
    printed = io.StringIO()
    with kept.folder() as folder, contextlib.redirect_stdout(printed):
        arm = kept.part.open(tracked_arm(folder, "one"))
        arm.numbers(0, {"reward": 1.0})
        arm.close({"cat": 1.0}, failed=False)
    assert not printed.getvalue(), f"it prints {printed.getvalue()!r}"


def random_state(kept: Kept) -> None:
    """Torch's global random state is left as it was."""
    with kept.folder() as folder, unmoved(torch.device("cpu"), "open"):
        kept.part.open(tracked_arm(folder, "one")).close({}, failed=False)


CHECKS: Final = (form, arms, failed_run, goes_on, no_links, quiet, random_state)
