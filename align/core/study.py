"""Studies: modes that measure, and what they find."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar, final

import attrs

from align.core.mode import AlignmentMode

State = TypeVar("State")


@final
@attrs.frozen
class Point:
    """One measured value.

    Attributes:
        panel: under which circumstances, "t = 0.1"; points of one panel make a curve.
        calls: network calls that it took, for each draw or sample.
        value: what was measured.
        error: its standard error, where it is known.
    """

    panel: str
    calls: float
    value: float
    error: float | None = None


@final
@attrs.frozen
class Findings:
    """What a study found out about one arm.

    Attributes:
        value: what was measured, in words.
        calls: what the network calls are counted for, "NFE a draw".
        points: in the order in which they are to be shown.
        notes: what must be said beside them.
        ratios: whether values are lengths, of which ratios matter.
        measures: whether each panel is another measure, in units of its own.
    """

    value: str
    calls: str
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    ratios: bool = False
    measures: bool = False


class Study(ABC, Generic[State]):
    """Capability of a mode: it measures, and ends in findings."""

    kind: ClassVar[str]

    @abstractmethod
    def findings(self, state: State) -> Findings:
        """What was found, from the last state."""

    @abstractmethod
    def restart(self, last: State) -> State:
        """The state before the first step of another arm that was prepared by the arm before.

        It keeps of the `last` state of an arm before what does not depend on the sampler.
        """

    def is_prepared_by(self, other: AlignmentMode[Any]) -> bool:
        """Whether another arm's mode, on the same model and rewards, leaves what this one needs."""
        mine: object = self
        return mine == other
