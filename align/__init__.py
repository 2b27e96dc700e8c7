"""Reward alignment of flow and diffusion models: steering, search and fine-tuning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from align.catalog.registry import load_catalog
    from align.core.model import Condition, NoisyState
    from align.core.problem import Problem
    from align.core.streams import Streams
    from align.runner.session import run, sample

    __version__: str

__all__ = [
    "Condition",
    "NoisyState",
    "Problem",
    "Streams",
    "__version__",
    "load_catalog",
    "run",
    "sample",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: `import align` costs nothing."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("align-core")
    homes = {
        "NoisyState": "align.core.model",
        "Condition": "align.core.model",
        "Problem": "align.core.problem",
        "Streams": "align.core.streams",
        "load_catalog": "align.catalog.registry",
        "run": "align.runner.session",
        "sample": "align.runner.session",
    }
    if name not in homes:
        raise AttributeError(f"module 'align' has no attribute '{name}'")
    return getattr(importlib.import_module(homes[name]), name)


def __dir__() -> list[str]:
    return __all__
