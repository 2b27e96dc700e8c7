"""Reward alignment of flow and diffusion models: steering, search and fine-tuning.

Every name that a plugin or a notebook needs is imported from here. A name's module is imported when
the name is first asked for, so that `import align` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from align.catalog.convert import read_part
    from align.catalog.hookspecs import hookimpl
    from align.catalog.names import did_you_mean
    from align.catalog.registry import Catalog, load_catalog
    from align.catalog.tables import part_table
    from align.core.autoencoder import AutoencoderSpec
    from align.core.dataset import Dataset, DatasetSpec
    from align.core.draws import Draws, budget_option, draws_option, make_draws, weighted_mean
    from align.core.dynamics import Dynamics, FlowEvaluation, GaussianStep, GuidedFlow, Transition
    from align.core.errors import AlignError, ContractError, PartError, PromptError
    from align.core.estimate import Estimate
    from align.core.estimator import ClosedForm, ValueEstimator
    from align.core.metric import Metric
    from align.core.mode import (
        AlignmentMode,
        Continues,
        Export,
        HasWarnings,
        Info,
        Need,
        ReportsKL,
        Trainable,
        UsesRewardGradient,
    )
    from align.core.model import (
        ClassConditional,
        Condition,
        DataSampler,
        DescribesConditions,
        Domain,
        EncodesPictures,
        FlowMap,
        FlowModel,
        Licensed,
        ModelSpec,
        NoisyState,
        NoModel,
        PosteriorMap,
        Scheduled,
        ToData,
        TrainableVelocity,
    )
    from align.core.network import NetworkSpec, Role, VelocityNetwork
    from align.core.objective import GroupedValues, Loss, Objective
    from align.core.option import (
        ConfigError,
        ConfigErrors,
        above,
        at_least,
        between,
        option,
        rising_to,
    )
    from align.core.path import LinearPath, Path, TrigonometricPath, expand
    from align.core.problem import Problem
    from align.core.prompts import (
        ReadsPrompts,
        match_class,
        named_classes,
        others_named,
        prompts_option,
        refuse_empty,
    )
    from align.core.reward import (
        HasReferenceImages,
        HasReferenceImplementation,
        Quadratic,
        Repeatable,
        Reward,
        RewardSpec,
        Term,
        WeightedReward,
    )
    from align.core.sampler import PosteriorSampler
    from align.core.streams import Streams
    from align.core.study import Findings, Point, Study
    from align.core.term import RewardTerm
    from align.modes.distill.consistency import ConsistencyLoss
    from align.modes.distill.diagonal import DiagonalTarget
    from align.modes.distill.inner import InnerFlow
    from align.modes.finetune.objective import FinetuneObjective, regression
    from align.modes.finetune.target import TiltedTarget
    from align.runner.session import run, sample
    from align.runner.wrap import wrap
    from align.training.loop import Optimisation, Training
    from align.training.mode import TrainingMode, TrainingState

    __version__: str

_NAMES: Final = {
    "align.catalog.convert": ("read_part",),
    "align.catalog.hookspecs": ("hookimpl",),
    "align.catalog.names": ("did_you_mean",),
    "align.catalog.registry": ("Catalog", "load_catalog"),
    "align.catalog.tables": ("part_table",),
    "align.core.autoencoder": ("AutoencoderSpec",),
    "align.core.dataset": ("Dataset", "DatasetSpec"),
    "align.core.draws": ("Draws", "weighted_mean", "budget_option", "make_draws", "draws_option"),
    "align.core.dynamics": (
        "Dynamics",
        "FlowEvaluation",
        "GaussianStep",
        "GuidedFlow",
        "Transition",
    ),
    "align.core.estimate": ("Estimate",),
    "align.core.estimator": ("ClosedForm", "ValueEstimator"),
    "align.core.metric": ("Metric",),
    "align.core.mode": (
        "AlignmentMode",
        "Continues",
        "Export",
        "HasWarnings",
        "Info",
        "Need",
        "ReportsKL",
        "Trainable",
        "UsesRewardGradient",
    ),
    "align.core.model": (
        "ClassConditional",
        "Condition",
        "DataSampler",
        "DescribesConditions",
        "Domain",
        "EncodesPictures",
        "FlowMap",
        "FlowModel",
        "Licensed",
        "ModelSpec",
        "NoModel",
        "NoisyState",
        "PosteriorMap",
        "Scheduled",
        "ToData",
        "TrainableVelocity",
    ),
    "align.core.network": ("NetworkSpec", "Role", "VelocityNetwork"),
    "align.core.objective": ("GroupedValues", "Loss", "Objective"),
    "align.core.option": (
        "ConfigError",
        "ConfigErrors",
        "above",
        "at_least",
        "between",
        "option",
        "rising_to",
    ),
    "align.core.path": ("LinearPath", "Path", "TrigonometricPath", "expand"),
    "align.core.problem": ("Problem",),
    "align.core.prompts": (
        "ReadsPrompts",
        "match_class",
        "named_classes",
        "others_named",
        "prompts_option",
        "refuse_empty",
    ),
    "align.core.reward": (
        "HasReferenceImages",
        "HasReferenceImplementation",
        "Quadratic",
        "Repeatable",
        "Reward",
        "RewardSpec",
        "Term",
        "WeightedReward",
    ),
    "align.core.sampler": ("PosteriorSampler",),
    "align.core.streams": ("Streams",),
    "align.core.study": ("Findings", "Point", "Study"),
    "align.core.term": ("RewardTerm",),
    "align.core.errors": ("AlignError", "ContractError", "PartError", "PromptError"),
    "align.modes.distill.consistency": ("ConsistencyLoss",),
    "align.modes.distill.diagonal": ("DiagonalTarget",),
    "align.modes.distill.inner": ("InnerFlow",),
    "align.modes.finetune.objective": ("FinetuneObjective", "regression"),
    "align.modes.finetune.target": ("TiltedTarget",),
    "align.runner.session": ("run", "sample"),
    "align.runner.wrap": ("wrap",),
    "align.training.loop": ("Optimisation", "Training"),
    "align.training.mode": ("TrainingMode", "TrainingState"),
}
"""Public names, by the module that defines them."""
_HOMES: Final = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "AlignError",
    "AlignmentMode",
    "AutoencoderSpec",
    "Catalog",
    "ClassConditional",
    "ClosedForm",
    "Condition",
    "ConfigError",
    "ConfigErrors",
    "ConsistencyLoss",
    "Continues",
    "ContractError",
    "DataSampler",
    "Dataset",
    "DatasetSpec",
    "DescribesConditions",
    "DiagonalTarget",
    "Domain",
    "Draws",
    "Dynamics",
    "EncodesPictures",
    "Estimate",
    "Export",
    "Findings",
    "FinetuneObjective",
    "FlowEvaluation",
    "FlowMap",
    "FlowModel",
    "GaussianStep",
    "GroupedValues",
    "GuidedFlow",
    "HasReferenceImages",
    "HasReferenceImplementation",
    "HasWarnings",
    "Info",
    "InnerFlow",
    "Licensed",
    "LinearPath",
    "Loss",
    "Metric",
    "ModelSpec",
    "Need",
    "NetworkSpec",
    "NoModel",
    "NoisyState",
    "Objective",
    "Optimisation",
    "PartError",
    "Path",
    "Point",
    "PosteriorMap",
    "PosteriorSampler",
    "Problem",
    "PromptError",
    "Quadratic",
    "ReadsPrompts",
    "Repeatable",
    "ReportsKL",
    "Reward",
    "RewardSpec",
    "RewardTerm",
    "Role",
    "Scheduled",
    "Streams",
    "Study",
    "Term",
    "TiltedTarget",
    "ToData",
    "Trainable",
    "TrainableVelocity",
    "Training",
    "TrainingMode",
    "TrainingState",
    "Transition",
    "TrigonometricPath",
    "UsesRewardGradient",
    "ValueEstimator",
    "VelocityNetwork",
    "WeightedReward",
    "__version__",
    "above",
    "at_least",
    "between",
    "budget_option",
    "did_you_mean",
    "draws_option",
    "expand",
    "hookimpl",
    "load_catalog",
    "make_draws",
    "match_class",
    "named_classes",
    "option",
    "others_named",
    "part_table",
    "prompts_option",
    "read_part",
    "refuse_empty",
    "regression",
    "rising_to",
    "run",
    "sample",
    "weighted_mean",
    "wrap",
]


def __getattr__(name: str) -> object:
    """The public name, from its module."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("align-core")
    if name not in _HOMES:
        raise AttributeError(f"module 'align' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
