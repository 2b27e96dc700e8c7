"""The contracts of parts: the one list of them, in the order in which they are shown.

Classes are named here and imported by `align.catalog.registry`, so that the command can offer the
names without importing torch. A contract has a section or an option of its name in recipes, a hook
`align_<name>s` in `align.catalog.hookspecs`, and checks in `align.testing.checks.<name>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

CONTRACT_CLASSES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "model": "align.core.model:ModelSpec",
        "sampler": "align.core.sampler:PosteriorSampler",
        "estimator": "align.core.estimator:ValueEstimator",
        "reward": "align.core.reward:RewardSpec",
        "mode": "align.core.mode:AlignmentMode",
        "metric": "align.core.metric:Metric",
    }
)
"""Module and class of each contract, by its name."""
