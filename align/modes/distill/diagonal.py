"""Targets of a map on its diagonal, where it is the velocity of the inner flow."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, final

import attrs
from torch import Tensor

from align.core.objective import Objective
from align.modes.distill.inner import InnerFlow


@attrs.frozen(kw_only=True)
class DiagonalTarget(Objective):
    """A target of v_{s,s}(I_s; t, x_t) whose mean given (I_s, x_t) is the inner velocity."""

    @property
    def follows_teacher(self) -> bool:
        """Whether targets are the teacher's velocity, which knows nothing of a tilt."""
        return False

    @abstractmethod
    def target(self, inner: InnerFlow, s: Tensor) -> Tensor:
        """The target (B, *S) at times s (B,), without a gradient."""


@final
@attrs.frozen(kw_only=True)
class DataTarget(DiagonalTarget):
    """distill, diagonal: from data, without a teacher.

    The rate α'_s noise + β'_s x1 of the coupled interpolant, guided where the recipe asks.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 33.
    """

    kind: ClassVar[str] = "data"

    def target(self, inner: InnerFlow, s: Tensor) -> Tensor:
        """İ_s, (B, *S)."""
        return inner.rate(s)


@final
@attrs.frozen(kw_only=True)
class TeacherTarget(DiagonalTarget):
    """distill, diagonal: from the velocity of a teacher.

    The inner velocity itself, by GLASS from the velocity of a teacher; it has no noise.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, Eq. 33; GLASS Flows,
    Holderrieth et al., 2025, arXiv:2509.25170.
    """

    kind: ClassVar[str] = "teacher"

    @property
    def follows_teacher(self) -> bool:
        """Always."""
        return True

    def target(self, inner: InnerFlow, s: Tensor) -> Tensor:
        """b̄_s(I_s), (B, *S)."""
        return inner.teacher(inner.state(s), s)
