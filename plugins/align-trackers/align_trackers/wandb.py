"""Weights & Biases: a run for each arm, offline unless asked otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, final

import attrs
import numpy as np

from align import ArmTracker, TrackedArm, Tracker, option
from align_trackers.package import require

if TYPE_CHECKING:
    import wandb


@final
@attrs.frozen(kw_only=True)
class WeightsAndBiases(Tracker):
    """Runs in Weights & Biases; offline unless asked otherwise.

    Offline, which is the default, nothing leaves the machine: runs are kept in `wandb` in the
    working folder, or in $WANDB_DIR, and `wandb sync wandb/offline-run-*` sends them later. Arms of
    one run are a group.

    Reference: Experiment tracking with Weights and Biases, Biewald, 2020, https://wandb.ai.
    """

    kind: ClassVar[str] = "wandb"

    project: str = option("project that the arms are kept in", default="align")
    mode: Literal["offline", "online"] = option(
        "whether runs are kept on this machine, or sent to the service as they go on",
        default="offline",
    )

    def __attrs_post_init__(self) -> None:
        require("wandb")

    def open(self, arm: TrackedArm) -> ArmTracker:
        """A run of the service, whose configuration is the recipe."""
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            init_timeout=30,
        )
        run = wandb.init(
            project=self.project,
            group=arm.run,
            name=arm.title,
            config={**arm.tables, "arm": arm.name},
            mode=self.mode,
            reinit="create_new",
            settings=settings,
        )
        return _Run(run, arm.recipe)


@final
@attrs.frozen(eq=False)
class _Run(ArmTracker):
    run: wandb.Run
    recipe: str

    def numbers(self, index: int, numbers: Mapping[str, float]) -> None:
        """A row of the history."""
        self.run.log(dict(numbers), step=index)

    def picture(self, index: int, picture: np.ndarray) -> None:
        """An image named "samples"."""
        import wandb

        self.run.log({"samples": wandb.Image(picture)}, step=index)

    def close(self, numbers: Mapping[str, float], *, failed: bool) -> None:
        """Results in the summary."""
        self.run.summary.update({f"final/{name}": value for name, value in numbers.items()})
        self.run.finish(exit_code=int(failed))
