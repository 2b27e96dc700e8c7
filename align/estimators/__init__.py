"""Value estimators: one algorithm, one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.catalog.hookspecs import hookimpl

if TYPE_CHECKING:
    from align.core.estimator import ValueEstimator


@hookimpl
def align_estimators() -> list[type[ValueEstimator]]:
    """Value estimators."""
    from align.estimators.bank import Bank
    from align.estimators.blend import Blend
    from align.estimators.damped import Damped
    from align.estimators.exact import Exact
    from align.estimators.gaussian import GaussianValue
    from align.estimators.gradient import Gradient
    from align.estimators.search import Search
    from align.estimators.stein import Stein

    return [Bank, Blend, Damped, Exact, GaussianValue, Gradient, Search, Stein]
