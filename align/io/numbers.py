"""Numbers as tables, pages and pictures show them: one rule for all."""

from __future__ import annotations

import math
from typing import Final

_LARGE: Final = 1e6  # from here on numbers have exponents, as do those below a ten thousandth
_SMALL: Final = 1e-4
_LAST: Final = -7  # power of ten of the last decimal that is written out


def rounded(value: float) -> str:
    """A number without an error: four digits, or all before the point."""
    if not math.isfinite(value) or not value:
        return f"{value:g}"
    size = abs(float(f"{value:.3e}"))
    if not _SMALL <= size < _LARGE:
        return f"{value:.4g}"
    return f"{value:.0f}" if size >= 1e4 else f"{value:.4g}"


def with_error(value: float, error: float | None = None) -> str:
    """A number ± its standard error: two digits of the error, and the number as far as these."""
    if error is None or not math.isfinite(value) or not math.isfinite(error):
        return rounded(value)
    if error <= 0:
        return f"{rounded(value)} ± 0"
    last = math.floor(math.log10(float(f"{error:.1e}"))) - 1
    if last < _LAST or max(abs(value), error) >= _LARGE:
        digits = math.floor(math.log10(abs(value))) - last if value else 0
        return f"{value:.{min(max(digits, 0), 15)}{'e' if value else 'f'}} ± {error:.1e}"
    shown = (f"{round(x, -last) if last > 0 else x:.{max(-last, 0)}f}" for x in (value, error))
    return " ± ".join(text.removeprefix("-") if float(text) == 0 else text for text in shown)


def beside(value: float, error: float | None) -> str:
    """A number as far as `with_error` writes it, where the error stands elsewhere."""
    return with_error(value, error).partition(" ± ")[0]
