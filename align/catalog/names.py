"""Names that were meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The one known name that is clearly closest to `name`, else all that are known."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.7)
    likeness = [difflib.SequenceMatcher(None, name, other).ratio() for other in close]
    if len(close) == 1 or (close and likeness[0] - likeness[1] > 0.1):
        return f"did you mean '{close[0]}'?"
    if not names:
        return "there are none"
    return "known are " + ", ".join(f"'{known}'" for known in names)
