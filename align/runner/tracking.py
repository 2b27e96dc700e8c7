"""The trackers of a run, told about its arms; one that fails is left out, and the run goes on."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self, final

import attrs
import numpy as np
from loguru import logger

from align.core.attribution import described, settings_kept
from align.core.errors import AlignError
from align.core.interrupt import is_interrupt
from align.core.mode import Info
from align.core.tracker import ArmTracker, TrackedArm, Tracker
from align.io.images import mosaic, opened, to_bytes
from align.recipe.sweep import VARIED
from align.report.schema import ArmNumbers, read
from align.report.table import numbers_of
from align.runner.record import Record

_PICTURES: Final = 16  # of an arm's samples


@final
@attrs.define(eq=False)
class Tracking:
    """Tells the trackers of a run what its arms do.

    Attributes:
        record: the run folder.
        trackers: those that have not failed, with the arms that each has open.
    """

    record: Record
    trackers: list[tuple[Tracker, dict[str, ArmTracker]]]
    _last: dict[str, int] = attrs.field(factory=dict, init=False)

    @classmethod
    def of(cls, record: Record, trackers: Iterable[Tracker]) -> Self:
        """The trackers of a recipe, which have nothing open yet."""
        return cls(record, [(tracker, {}) for tracker in trackers])

    def step(self, arm: str, index: int, info: Info) -> None:
        """Step number `index` of an arm is done."""
        self._last[arm] = index

        def tell(tracked: ArmTracker) -> None:
            tracked.numbers(index, info.numbers)
            if info.pictures is not None:
                shown = mosaic(to_bytes(info.pictures), captions=info.captions)
                tracked.picture(index, shown)

        self._each(arm, tell)

    def end(self, error: BaseException | None) -> None:
        """The run is over: hand on the results, unless it failed, and close all arms."""
        for arm in self.record.arms if error is None else list(self._last):

            def tell(tracked: ArmTracker, arm: str = arm) -> None:
                if error is not None:
                    tracked.close({}, failed=True)
                    return
                folder = self.record.folder
                (numbers,) = (found for found in read(folder).arms if found.name == arm)
                if (picture := _samples(folder, numbers)) is not None:
                    tracked.picture(self._last.get(arm, 0), picture)
                tracked.close(_results(folder, numbers), failed=False)

            self._each(arm, tell)

    def _each(self, arm: str, tell: Callable[[ArmTracker], None]) -> None:
        """Tell every tracker something of an arm, which is opened where it is not."""
        for tracker, known in list(self.trackers):
            try:
                with settings_kept():
                    if arm not in known:
                        known[arm] = tracker.open(self._facts(arm))
                    tell(known[arm])
            except BaseException as error:  # of anybody's service
                if is_interrupt(error):
                    raise
                reason = str(error) if isinstance(error, AlignError) else described(error)
                text = "tracker '{}' is told no more about this run, which goes on: {}"
                logger.bind(notice=True).warning(text, tracker.kind, reason)
                logger.opt(exception=error).debug("the error of '{}'", tracker.kind)
                self.trackers.remove((tracker, known))

    def _facts(self, arm: str) -> TrackedArm:
        record = self.record
        return TrackedArm(
            run=record.folder.absolute().name,
            name=arm,
            alone=len(record.arms) == 1,
            folder=record.folder,
            slug=record.arms[arm],
            recipe=record.recipe,
            tables=_tables(record.recipe, arm),
            first=self._last.get(arm, 0),
        )


def _tables(recipe: str, arm: str) -> Mapping[str, Any]:
    """The sections of a resolved recipe as one of its arms has them."""
    tables = tomllib.loads(recipe)
    (own,) = [table for table in tables.pop("compare", ()) if table["name"] == arm] or [tables]
    shared = {name: table for name, table in tables.items() if name not in VARIED}
    return {**shared, **{name: value for name, value in own.items() if name != "name"}}


def _results(folder: Path, arm: ArmNumbers) -> dict[str, float]:
    """The numbers of an arm by name, and their standard errors where these are known."""
    results = dict[str, float]()
    for name, (value, error) in numbers_of(folder, arm).items():
        results[name] = float(value)
        if error is not None:
            results[f"{name} error"] = error
    return results


def _samples(folder: Path, arm: ArmNumbers) -> np.ndarray | None:
    """The first samples of an arm in one picture; None where they are none."""
    files = sorted((folder / arm.folder).glob("*.png"))[:_PICTURES]
    if not files:
        return None
    return mosaic(np.stack([np.asarray(opened(file).pil) for file in files]), 4)
