"""TensorBoard: event files that `tensorboard --logdir` shows."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import attrs
import numpy as np

from align import ArmTracker, TrackedArm, Tracker, option
from align_trackers.package import require

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@final
@attrs.frozen(kw_only=True)
class TensorBoard(Tracker):
    """Event files for TensorBoard, to watch runs as they go.

    Each arm has a folder of its own, so that `tensorboard --logdir FOLDER` lays arms and runs over
    each other. Where a run goes on or is repeated, what it tells anew takes the place of the old.

    Reference: TensorFlow: Large-scale machine learning on heterogeneous systems, Abadi et al.,
    2015, arXiv:1603.04467, section 9.1 (TensorBoard).
    """

    kind: ClassVar[str] = "tensorboard"

    folder: str = option(
        "where the event files go, below the name of the run; 'tensorboard' in the run folder if"
        " empty",
        default="",
        path="written",
    )

    def __attrs_post_init__(self) -> None:
        require("tensorboard")

    def open(self, arm: TrackedArm) -> ArmTracker:
        """Event files of an arm, with the recipe as text."""
        from torch.utils.tensorboard import SummaryWriter

        place = Path(self.folder) / arm.run if self.folder else arm.folder / "tensorboard"
        writer = SummaryWriter(str(place / arm.slug), purge_step=arm.first)
        # Markdown shows lines that are set in as they are.
        writer.add_text("recipe", textwrap.indent(arm.recipe, "    "), arm.first)
        return _Events(writer)


@final
@attrs.frozen(eq=False)
class _Events(ArmTracker):
    writer: SummaryWriter
    _last: list[int] = attrs.field(factory=lambda: [0])

    def numbers(self, index: int, numbers: Mapping[str, float]) -> None:
        """A scalar for each number."""
        self._last[0] = index
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, index)

    def picture(self, index: int, picture: np.ndarray) -> None:
        """An image named "samples"."""
        self.writer.add_image("samples", picture, index, dataformats="HWC")

    def close(self, numbers: Mapping[str, float], *, failed: bool) -> None:
        """Results as scalars at the last step."""
        for name, value in numbers.items():
            self.writer.add_scalar(f"final/{name}", value, self._last[0])
        self.writer.close()
