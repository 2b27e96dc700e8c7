"""The packages of the services, which are extras of this distribution."""

from __future__ import annotations

import importlib.util


def require(package: str) -> None:
    """Raise ValueError, with the command that helps, where a package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{package} is not installed; pip install 'align-trackers[{package}]'")
