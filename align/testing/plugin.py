"""What pytest is told by `align`; it loads this in every session, so nothing heavy is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker of the kit known, and let its failed checks show their values."""
    import pytest

    config.addinivalue_line(
        "markers", "conformance: a check of a part's contract by align.testing.conformance"
    )
    pytest.register_assert_rewrite("align.testing.checks", "align.testing.probes")
