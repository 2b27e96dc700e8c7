"""The contracts of parts: the one list of them, in the order in which they are shown.

Classes are named here and imported by `align.catalog.registry`, so that the command can offer the
names without importing torch. A contract has a section or an option of its name in recipes, a hook
(see `hook_of`) in `align.catalog.hookspecs`, and checks in `align.testing.checks.<name>`.
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
        "dynamics": "align.core.dynamics:Dynamics",
        "reward": "align.core.reward:RewardSpec",
        "mode": "align.core.mode:AlignmentMode",
        "metric": "align.core.metric:Metric",
        "features": "align.core.features:FeatureNetwork",
        "network": "align.core.network:NetworkSpec",
        "autoencoder": "align.core.autoencoder:AutoencoderSpec",
        "dataset": "align.core.dataset:DatasetSpec",
        "objective": "align.core.objective:Objective",
        "tracker": "align.core.tracker:Tracker",
        "executor": "align.core.executor:Executor",
    }
)
"""Module and class of each contract, by its name."""

WINGS_WITH_PARTS: Final = (
    "models",
    "samplers",
    "estimators",
    "dynamics",
    "rewards",
    "isolation",
    "modes",
    "metrics",
    "networks",
    "datasets",
    "executors",
)
"""The packages of align that bring parts; each names them in its `__init__`, as a plugin does."""

DEFAULT_KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {"autoencoder": "upsample", "dataset": "pictures"}
)
"""The kind of a table that names none, by contract; tables of other contracts must name one."""


def plural(contract: str) -> str:
    """What several parts of a contract are called: 'samplers', 'dynamics'."""
    return contract if contract.endswith("s") else f"{contract}s"


def contract_named(name: str) -> str | None:
    """The contract of that name, which may be in the plural."""
    return next((known for known in CONTRACT_CLASSES if name in (known, plural(known))), None)


def hook_of(contract: str) -> str:
    """Name of the hook that brings the parts of a contract."""
    return f"align_{plural(contract)}"
