"""Trackers: services and files outside of the run folder that keep how runs went."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

import attrs
import numpy as np


@final
@attrs.frozen(eq=False, kw_only=True)
class TrackedArm:
    """The arm that a tracker is told about.

    Attributes:
        run: name of the run.
        name: of the arm.
        alone: whether the run has no other arm.
        folder: of the run; what a tracker writes there holds no links.
        slug: name of the arm as that of a folder.
        recipe: of the run with every value resolved, as TOML.
        tables: the same as tables.
        first: number of the first step that is told: above 0 where a training goes on.
    """

    run: str
    name: str
    alone: bool
    folder: Path
    slug: str
    recipe: str
    tables: Mapping[str, Any]
    first: int = 0

    @property
    def title(self) -> str:
        """Run and arm in one."""
        return self.run if self.alone else f"{self.run}: {self.name}"


class ArmTracker(ABC):
    """Keeps how one arm goes; whatever it raises ends the tracker, and not the run."""

    @abstractmethod
    def numbers(self, index: int, numbers: Mapping[str, float]) -> None:
        """What step number `index`, counted from 0, said."""

    @abstractmethod
    def picture(self, index: int, picture: np.ndarray) -> None:
        """Samples side by side in one picture (H, W, 3) uint8, after step number `index`."""

    @abstractmethod
    def close(self, numbers: Mapping[str, float], *, failed: bool) -> None:
        """The arm is over: its results, none where the run failed; nothing is told after it."""


@attrs.frozen(kw_only=True)
class Tracker(ABC):
    """Keeps numbers and pictures of runs where they are compared and shown.

    A package that it needs and that is missing is a mistake of the recipe: raise ValueError, with
    the command that installs it, when the tracker is made.
    """

    kind: ClassVar[str]

    @abstractmethod
    def open(self, arm: TrackedArm) -> ArmTracker:
        """Begin to keep an arm; several arms of a run may be open at once."""
