"""Markdown tables of measured figures beside their references."""

from __future__ import annotations

import attrs

LIMIT = 3.0
"""Noises that a figure may be from its reference and still agree with it."""


@attrs.frozen
class Table:
    """One table: its name, the heads of its columns, and its rows, all as text."""

    name: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        lines = [self.head, ("---",) * len(self.head), *self.rows]
        return "\n".join((f"**{self.name}**", "", *(f"| {' | '.join(line)} |" for line in lines)))


def short(number: float, digits: int = 3) -> str:
    """A number as tables have it: `digits` significant ones, no zero before the point."""
    if number == 0:
        return "0"
    if abs(number) < 1e-3:
        return f"{number:.1e}".replace("e-0", "e-")
    if abs(number) < 1:
        return f"{number:.{digits}f}".replace("0.", ".", 1)
    whole = len(str(int(abs(number))))
    return f"{number:.{max(0, digits - whole)}f}"


def value_of(reference: str) -> tuple[float, float]:
    """The number that a reference states, and half a unit of its last digit."""
    text = reference.lstrip("~").split()[0]
    digits = len(text.partition(".")[2])
    return float(text), 0.5 * 10.0**-digits


def apart(measured: float, reference: str, noise: float) -> float:
    """How many noises lie between a figure and its reference; its rounding is not counted."""
    stated, rounding = value_of(reference)
    return max(0.0, abs(measured - stated) - rounding) / noise


def verdict(measured: float, reference: str, noise: float) -> str:
    """Whether a figure is within `LIMIT` noises of its reference."""
    if not reference:
        return ""
    far = apart(measured, reference, noise)
    return f"{'agrees' if far <= LIMIT else 'differs'}, {far:.1f}"


def verdicts(named: dict[str, tuple[float, str, float]], limit: float = LIMIT) -> str:
    """One verdict for (measured, reference, noise) of several columns; names those that differ."""
    far = {name: apart(*each) for name, each in named.items() if each[1]}
    if not far:
        return ""
    wrong = [f"{name} differs, {size:.1f}" for name, size in far.items() if size > limit]
    return "; ".join(wrong) or f"agree, up to {max(far.values()):.1f}"


def order(measured: float, reference: float) -> str:
    """Verdict on an error that should be rounding: at most ten times that of the reference."""
    return "agrees" if measured <= 10 * reference else "differs"
