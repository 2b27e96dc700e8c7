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
    from align.core.executor import Executor, Job, Task, Watch, performed
    from align.core.features import FeatureExtractor, FeatureNetwork, PictureFeatures
    from align.core.metric import Metric, StreamedMetric
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
        TokenGrid,
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
        ComparingReward,
        HasReferenceImages,
        HasReferenceImplementation,
        Pins,
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
    from align.core.tracker import ArmTracker, TrackedArm, Tracker
    from align.dynamics.ddim import DDIM
    from align.dynamics.ddpm import DDPM
    from align.dynamics.glass import GlassTransition
    from align.dynamics.heun import Heun
    from align.dynamics.ode import ODE
    from align.dynamics.sde import SDE
    from align.estimators.bank import Bank
    from align.estimators.blend import Blend
    from align.estimators.damped import Damped
    from align.estimators.exact import Exact
    from align.estimators.gaussian import GaussianValue
    from align.estimators.gradient import Gradient
    from align.estimators.search import Search
    from align.estimators.stein import Stein
    from align.metrics.frechet import FrechetThumbnails
    from align.metrics.sliced_wasserstein import SlicedWasserstein
    from align.metrics.statistics import ImageStatistics
    from align.models.mixture import Mixture
    from align.models.network import Network
    from align.models.torch import Torch
    from align.modes.autoencode import Autoencode
    from align.modes.distill.consistency import ConsistencyLoss
    from align.modes.distill.diagonal import DiagonalTarget
    from align.modes.distill.inner import InnerFlow
    from align.modes.distill.mode import Distill
    from align.modes.finetune.mode import FineTune
    from align.modes.finetune.objective import FinetuneObjective, regression
    from align.modes.finetune.target import TiltedTarget
    from align.modes.pretrain import Pretrain
    from align.modes.sampling.best_noise import BestNoise
    from align.modes.sampling.best_of_n import BestOfN
    from align.modes.sampling.fmrg import FlowMapGuidance
    from align.modes.sampling.noise_ascent import NoiseAscent
    from align.modes.sampling.path_search import PathSearch
    from align.modes.sampling.posterior_draws import PosteriorDraws
    from align.modes.sampling.steer import Steer
    from align.modes.sampling.trajectory_tilting import TrajectoryTilting
    from align.modes.studies.best_of_groups import BestOfGroups
    from align.modes.studies.fidelity import Fidelity
    from align.modes.studies.posterior_recovery import PosteriorRecovery
    from align.modes.studies.tilt_check import TiltCheck
    from align.modes.studies.value_correlation import ValueCorrelation
    from align.rewards.compressibility import Compressibility, Incompressibility
    from align.rewards.linear import Likelihood
    from align.rewards.measurement import Measurement
    from align.rewards.psnr import PSNR
    from align.rewards.python import Python
    from align.rewards.statistic import PictureStatistic
    from align.runner.direct import sample
    from align.runner.results import ArmResult, Step
    from align.runner.session import run
    from align.runner.wrap import wrap
    from align.samplers.dps import DPS
    from align.samplers.exact import ExactPosterior
    from align.samplers.gaussian import GaussianPosterior
    from align.samplers.glass import Glass
    from align.samplers.look_ahead import LookAhead
    from align.samplers.mfm import MetaFlowMap
    from align.samplers.renoise import Renoise
    from align.training.looks import Looks
    from align.training.loop import Optimisation, Training
    from align.training.mode import Beside, TrainingMode, TrainingState

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
    "align.core.executor": ("Executor", "Job", "Task", "Watch", "performed"),
    "align.core.features": ("FeatureExtractor", "FeatureNetwork", "PictureFeatures"),
    "align.core.metric": ("Metric", "StreamedMetric"),
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
        "TokenGrid",
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
        "ComparingReward",
        "HasReferenceImages",
        "HasReferenceImplementation",
        "Pins",
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
    "align.core.tracker": ("ArmTracker", "TrackedArm", "Tracker"),
    "align.core.errors": ("AlignError", "ContractError", "PartError", "PromptError"),
    "align.modes.distill.consistency": ("ConsistencyLoss",),
    "align.modes.distill.diagonal": ("DiagonalTarget",),
    "align.modes.distill.inner": ("InnerFlow",),
    "align.modes.finetune.objective": ("FinetuneObjective", "regression"),
    "align.modes.finetune.target": ("TiltedTarget",),
    "align.dynamics.ddim": ("DDIM",),
    "align.dynamics.ddpm": ("DDPM",),
    "align.dynamics.glass": ("GlassTransition",),
    "align.dynamics.heun": ("Heun",),
    "align.dynamics.ode": ("ODE",),
    "align.dynamics.sde": ("SDE",),
    "align.estimators.bank": ("Bank",),
    "align.estimators.blend": ("Blend",),
    "align.estimators.damped": ("Damped",),
    "align.estimators.exact": ("Exact",),
    "align.estimators.gaussian": ("GaussianValue",),
    "align.estimators.gradient": ("Gradient",),
    "align.estimators.search": ("Search",),
    "align.estimators.stein": ("Stein",),
    "align.metrics.frechet": ("FrechetThumbnails",),
    "align.metrics.sliced_wasserstein": ("SlicedWasserstein",),
    "align.metrics.statistics": ("ImageStatistics",),
    "align.models.mixture": ("Mixture",),
    "align.models.network": ("Network",),
    "align.models.torch": ("Torch",),
    "align.modes.autoencode": ("Autoencode",),
    "align.modes.distill.mode": ("Distill",),
    "align.modes.finetune.mode": ("FineTune",),
    "align.modes.pretrain": ("Pretrain",),
    "align.modes.sampling.best_noise": ("BestNoise",),
    "align.modes.sampling.best_of_n": ("BestOfN",),
    "align.modes.sampling.fmrg": ("FlowMapGuidance",),
    "align.modes.sampling.noise_ascent": ("NoiseAscent",),
    "align.modes.sampling.path_search": ("PathSearch",),
    "align.modes.sampling.posterior_draws": ("PosteriorDraws",),
    "align.modes.sampling.steer": ("Steer",),
    "align.modes.sampling.trajectory_tilting": ("TrajectoryTilting",),
    "align.modes.studies.best_of_groups": ("BestOfGroups",),
    "align.modes.studies.fidelity": ("Fidelity",),
    "align.modes.studies.posterior_recovery": ("PosteriorRecovery",),
    "align.modes.studies.tilt_check": ("TiltCheck",),
    "align.modes.studies.value_correlation": ("ValueCorrelation",),
    "align.rewards.compressibility": (
        "Compressibility",
        "Incompressibility",
    ),
    "align.rewards.linear": ("Likelihood",),
    "align.rewards.measurement": ("Measurement",),
    "align.rewards.psnr": ("PSNR",),
    "align.rewards.python": ("Python",),
    "align.rewards.statistic": ("PictureStatistic",),
    "align.samplers.dps": ("DPS",),
    "align.samplers.exact": ("ExactPosterior",),
    "align.samplers.gaussian": ("GaussianPosterior",),
    "align.samplers.glass": ("Glass",),
    "align.samplers.look_ahead": ("LookAhead",),
    "align.samplers.mfm": ("MetaFlowMap",),
    "align.samplers.renoise": ("Renoise",),
    "align.runner.results": (
        "ArmResult",
        "Step",
    ),
    "align.runner.direct": ("sample",),
    "align.runner.session": ("run",),
    "align.runner.wrap": ("wrap",),
    "align.training.looks": ("Looks",),
    "align.training.loop": ("Optimisation", "Training"),
    "align.training.mode": ("Beside", "TrainingMode", "TrainingState"),
}
"""Public names, by the module that defines them."""
_HOMES: Final = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "DDIM",
    "DDPM",
    "DPS",
    "ODE",
    "PSNR",
    "SDE",
    "AlignError",
    "AlignmentMode",
    "ArmResult",
    "ArmTracker",
    "Autoencode",
    "AutoencoderSpec",
    "Bank",
    "Beside",
    "BestNoise",
    "BestOfGroups",
    "BestOfN",
    "Blend",
    "Catalog",
    "ClassConditional",
    "ClosedForm",
    "ComparingReward",
    "Compressibility",
    "Condition",
    "ConfigError",
    "ConfigErrors",
    "ConsistencyLoss",
    "Continues",
    "ContractError",
    "Damped",
    "DataSampler",
    "Dataset",
    "DatasetSpec",
    "DescribesConditions",
    "DiagonalTarget",
    "Distill",
    "Domain",
    "Draws",
    "Dynamics",
    "EncodesPictures",
    "Estimate",
    "Exact",
    "ExactPosterior",
    "Executor",
    "Export",
    "FeatureExtractor",
    "FeatureNetwork",
    "Fidelity",
    "Findings",
    "FineTune",
    "FinetuneObjective",
    "FlowEvaluation",
    "FlowMap",
    "FlowMapGuidance",
    "FlowModel",
    "FrechetThumbnails",
    "GaussianPosterior",
    "GaussianStep",
    "GaussianValue",
    "Glass",
    "GlassTransition",
    "Gradient",
    "GroupedValues",
    "GuidedFlow",
    "HasReferenceImages",
    "HasReferenceImplementation",
    "HasWarnings",
    "Heun",
    "ImageStatistics",
    "Incompressibility",
    "Info",
    "InnerFlow",
    "Job",
    "Licensed",
    "Likelihood",
    "LinearPath",
    "LookAhead",
    "Looks",
    "Loss",
    "Measurement",
    "MetaFlowMap",
    "Metric",
    "Mixture",
    "ModelSpec",
    "Need",
    "Network",
    "NetworkSpec",
    "NoModel",
    "NoiseAscent",
    "NoisyState",
    "Objective",
    "Optimisation",
    "PartError",
    "Path",
    "PathSearch",
    "PictureFeatures",
    "PictureStatistic",
    "Pins",
    "Point",
    "PosteriorDraws",
    "PosteriorMap",
    "PosteriorRecovery",
    "PosteriorSampler",
    "Pretrain",
    "Problem",
    "PromptError",
    "Python",
    "Quadratic",
    "ReadsPrompts",
    "Renoise",
    "Repeatable",
    "ReportsKL",
    "Reward",
    "RewardSpec",
    "RewardTerm",
    "Role",
    "Scheduled",
    "Search",
    "SlicedWasserstein",
    "Steer",
    "Stein",
    "Step",
    "StreamedMetric",
    "Streams",
    "Study",
    "Task",
    "Term",
    "TiltCheck",
    "TiltedTarget",
    "ToData",
    "TokenGrid",
    "Torch",
    "TrackedArm",
    "Tracker",
    "Trainable",
    "TrainableVelocity",
    "Training",
    "TrainingMode",
    "TrainingState",
    "TrajectoryTilting",
    "Transition",
    "TrigonometricPath",
    "UsesRewardGradient",
    "ValueCorrelation",
    "ValueEstimator",
    "VelocityNetwork",
    "Watch",
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
    "performed",
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
