"""What the numbers of a recipe would need, so that none is begun that cannot end.

Every estimate is a lower bound, of what must be in memory at once, or of how long nothing but the
loop takes; networks and what they keep on their way back come on top.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, final

import attrs

from align.core.mode import Trainable
from align.core.network import NetworkSpec
from align.core.option import Key
from align.recipe.schema import Arm, Run

_NUMBER: Final = 4  # bytes
_ROW: Final = 80  # bytes that Python keeps of a row: its number, its prompt, its score
_TIME: Final = 32  # bytes of one number in a list
_COPIES: Final = 5  # of a weight in training: itself, gradient, two means of the optimiser, average
_STEP: Final = 1e-5  # seconds; no step of any loop is faster
_LONGEST: Final = 366 * 24 * 3600.0
_UNLIMITED: Final = 1 << 50


@final
@attrs.frozen
class Need:
    """What one number of a recipe asks for, at least.

    Attributes:
        key: of the number, within the recipe or an arm.
        text: the number with its noun.
        memory: bytes that are held at once.
        seconds: duration of the loop alone.
        times: keys of the other numbers that it is multiplied by.
    """

    key: Key
    text: str
    memory: float = 0.0
    seconds: float = 0.0
    times: tuple[Key, ...] = ()

    def refusal(self, available: float) -> str | None:
        """Why it cannot be, if it cannot; `available` are the bytes that there are."""
        if self.memory > available:
            return (
                f"{self.text} need at least {_readable(self.memory)} of memory, and there are"
                f" {_readable(available)} here; use fewer"
            )
        if self.seconds > _LONGEST:
            years = self.seconds / _LONGEST
            return f"{self.text} take {years:,.0f} years at least; use fewer"
        return None


def needs(run: Run, arm: Arm) -> Iterator[Need]:
    """What the numbers of an arm ask for, each on its own."""
    mode, shape = arm.mode, arm.model.state_shape if arm.model else None
    # A state and its data; nothing is known of one whose weights are not read.
    row = _ROW + 2 * _NUMBER * math.prod(shape or (1,))
    samples = run.samples
    yield Need(("run", "samples"), f"{samples:,} samples", samples * row)
    if "reward" in mode.needs and run.unsteered:
        count = run.unsteered
        yield Need(("run", "unsteered"), f"{count:,} unsteered samples", count * row)
    particles, times = getattr(mode, "particles", 1), (("run", "samples"), ("mode", "particles"))
    if particles > 1:
        rows = particles * samples
        yield Need(times[1], f"{particles:,} particles", rows * row, times=times[:1])
    for section, part in (("estimator", arm.estimator), ("mode", mode)):
        draws = getattr(part, "draws", 0)
        if isinstance(draws, int) and draws > 1 and section in ("mode", *mode.needs):
            rows = samples * (particles if section == "estimator" else 1)
            memory = draws * rows * (row - _ROW)
            yield Need((section, "draws"), f"{draws:,} draws", memory, times=times)
    if isinstance(mode, Trainable):
        key: Key = ("mode", "optimisation", "batch")
        yield Need(key, f"{mode.batch:,} rows of a batch", mode.batch * row)
    yield from _networks(arm)
    yield from _loops(mode)


def _networks(arm: Arm) -> Iterator[Need]:
    """The weights of networks that are made."""
    for section, part in (("mode", arm.mode), ("model", arm.model)):
        for field in attrs.fields(type(part)) if part else ():
            spec = getattr(part, field.name, None)
            if isinstance(spec, NetworkSpec) and (weights := spec.weights_at_least):
                copies = _COPIES if section == "mode" else 1
                text = f"the {weights:,} weights of '{spec.kind}'"
                yield Need((section, field.name), text, weights * copies * _NUMBER)


def _loops(mode: Any) -> Iterator[Need]:
    """Steps within steps."""
    inner = getattr(mode, "flow_steps", 1)
    for name, count in (("steps", mode.steps), ("n", getattr(mode, "n", 1)), ("flow_steps", inner)):
        rounds = mode.steps * inner if name == "n" else count
        grid = _TIME * count if hasattr(mode, "power") and name != "n" else 0
        if hasattr(type(mode), name):
            text = f"{count:,} {'candidates' if name == 'n' else 'steps'}"
            yield Need(("mode", name), text, grid, rounds * _STEP)


def available() -> float:
    """Bytes of memory that this process may have."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        limit = resource.getrlimit(kind)[0]
        limits += [float(limit)] if limit not in (resource.RLIM_INFINITY, -1) else []
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(float(Path(file).read_text()))
        except (OSError, ValueError):
            continue
    return min(limit for limit in limits if limit < _UNLIMITED)


def _readable(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} EB"
