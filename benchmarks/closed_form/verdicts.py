"""Whether a measured figure agrees with its reference."""

from __future__ import annotations

LIMIT = 3.0
"""Noises that a figure may be from its reference and still agree with it."""


def value_of(reference: str) -> tuple[float, float]:
    """The number that a reference states, and half a unit of its last digit."""
    text = reference.lstrip("~").split()[0]
    digits = len(text.partition(".")[2])
    return float(text), 0.5 * 10.0**-digits


def distance(measured: float, reference: str, noise: float) -> float:
    """How many noises lie between a figure and its reference; its rounding is not counted."""
    stated, rounding = value_of(reference)
    return max(0.0, abs(measured - stated) - rounding) / noise


def verdict(measured: float, reference: str, noise: float) -> str:
    """Whether a figure is within `LIMIT` noises of its reference."""
    if not reference:
        return ""
    noises = distance(measured, reference, noise)
    return f"{'agrees' if noises <= LIMIT else 'differs'}, {noises:.1f}"


def verdicts(named: dict[str, tuple[float, str, float]], limit: float = LIMIT) -> str:
    """One verdict for (measured, reference, noise) of several columns; names those that differ."""
    noises = {name: distance(*figures) for name, figures in named.items() if figures[1]}
    if not noises:
        return ""
    wrong = [f"{name} differs, {size:.1f}" for name, size in noises.items() if size > limit]
    return "; ".join(wrong) or f"agree, up to {max(noises.values()):.1f}"


def order(measured: float, reference: float) -> str:
    """Verdict on an error that should be rounding: at most ten times that of the reference."""
    return "agrees" if measured <= 10 * reference else "differs"
