"""trackio: a database on this machine that `trackio show` opens in a browser."""

from __future__ import annotations

import contextlib
import contextvars
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

import attrs
import numpy as np

from align import ArmTracker, TrackedArm, Tracker, option
from align_trackers.package import require

if TYPE_CHECKING:
    from trackio.run import Run


@final
@attrs.frozen(kw_only=True)
class Trackio(Tracker):
    """Runs in trackio: a local dashboard without an account.

    The database is in $TRACKIO_DIR, else in the cache of Hugging Face. Arms of one run are a group.

    Reference: Trackio: a lightweight experiment tracking library from Hugging Face, 2025,
    https://github.com/gradio-app/trackio.
    """

    kind: ClassVar[str] = "trackio"

    project: str = option("project that the arms are kept in", default="align")

    def __attrs_post_init__(self) -> None:
        require("trackio")

    def open(self, arm: TrackedArm) -> ArmTracker:
        """A run, whose configuration is the recipe."""
        import trackio

        def begun() -> Run:
            return trackio.init(
                self.project,
                name=arm.title,
                group=arm.run,
                config={**arm.tables, "arm": arm.name, "recipe": arm.recipe},
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

        with _quiet():
            # In a context of its own: beginning a run ends the one that the context has.
            return _Run(contextvars.copy_context().run(begun))


@final
@attrs.frozen(eq=False)
class _Run(ArmTracker):
    run: Run

    def numbers(self, index: int, numbers: Mapping[str, float]) -> None:
        """A row of metrics."""
        self.run.log(dict(numbers), step=index)

    def picture(self, index: int, picture: np.ndarray) -> None:
        """An image named "samples"."""
        import trackio

        self.run.log({"samples": trackio.Image(picture)}, step=index)

    def close(self, numbers: Mapping[str, float], *, failed: bool) -> None:
        """Results as a last row."""
        with _quiet():
            if numbers:
                self.run.log({f"final/{name}": value for name, value in numbers.items()})
            self.run.finish()


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """What trackio prints is no output of the command."""
    return contextlib.redirect_stdout(io.StringIO())
