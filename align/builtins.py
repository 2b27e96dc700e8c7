"""What align itself ships: the table of contents.

Every line imports its part when the hook is called, so that a missing one says which.
"""

from __future__ import annotations

from typing import Any

from align.catalog.hookspecs import hookimpl
from align.core.autoencoder import AutoencoderSpec
from align.core.dataset import DatasetSpec
from align.core.dynamics import Dynamics
from align.core.estimator import ValueEstimator
from align.core.metric import Metric
from align.core.mode import AlignmentMode
from align.core.model import ModelSpec
from align.core.network import NetworkSpec
from align.core.objective import Objective
from align.core.reward import RewardSpec
from align.core.sampler import PosteriorSampler


@hookimpl
def align_models() -> list[type[ModelSpec]]:
    """Models."""
    from align.models.mixture import Mixture
    from align.models.network import Network

    return [Mixture, Network]


@hookimpl
def align_samplers() -> list[type[PosteriorSampler]]:
    """Posterior samplers."""
    from align.samplers.dps import DPS
    from align.samplers.exact import ExactPosterior
    from align.samplers.gaussian import GaussianPosterior
    from align.samplers.glass import Glass
    from align.samplers.mfm import MetaFlowMap
    from align.samplers.renoise import Renoise

    return [DPS, ExactPosterior, GaussianPosterior, Glass, MetaFlowMap, Renoise]


@hookimpl
def align_estimators() -> list[type[ValueEstimator]]:
    """Value estimators."""
    from align.estimators.blend import Blend
    from align.estimators.exact import Exact
    from align.estimators.gaussian import GaussianValue
    from align.estimators.gradient import Gradient
    from align.estimators.search import Search
    from align.estimators.stein import Stein

    return [Blend, Exact, GaussianValue, Gradient, Search, Stein]


@hookimpl
def align_dynamics() -> list[type[Dynamics]]:
    """Dynamics."""
    from align.dynamics.ddim import DDIM
    from align.dynamics.ddpm import DDPM
    from align.dynamics.glass import GlassTransition
    from align.dynamics.heun import Heun
    from align.dynamics.ode import ODE
    from align.dynamics.renoise import Renoise
    from align.dynamics.sde import SDE

    return [DDIM, DDPM, GlassTransition, Heun, ODE, Renoise, SDE]


@hookimpl
def align_rewards() -> list[type[RewardSpec]]:
    """Rewards."""
    from align.isolation.reward import Isolated
    from align.rewards.compressibility import Compressibility, Incompressibility
    from align.rewards.linear import Likelihood
    from align.rewards.measurement import Measurement
    from align.rewards.psnr import PSNR
    from align.rewards.python import Python
    from align.rewards.statistic import PictureStatistic

    pictures: list[type[RewardSpec]] = [Compressibility, Incompressibility, PictureStatistic]
    return [*pictures, Isolated, Likelihood, Measurement, PSNR, Python]


@hookimpl
def align_modes() -> list[type[AlignmentMode[Any]]]:
    """Modes."""
    from align.modes.autoencode import Autoencode
    from align.modes.distill.mode import Distill
    from align.modes.finetune.mode import FineTune
    from align.modes.pretrain import Pretrain
    from align.modes.sampling.best_of_n import BestOfN
    from align.modes.sampling.steer import Steer
    from align.modes.studies.fidelity import Fidelity
    from align.modes.studies.posterior_recovery import PosteriorRecovery
    from align.modes.studies.value_correlation import ValueCorrelation

    sampling: list[type[AlignmentMode[Any]]] = [BestOfN, Steer]
    training: list[type[AlignmentMode[Any]]] = [Autoencode, Distill, FineTune, Pretrain]
    return [*sampling, *training, Fidelity, PosteriorRecovery, ValueCorrelation]


@hookimpl
def align_metrics() -> list[type[Metric]]:
    """Metrics."""
    from align.metrics.frechet import FrechetThumbnails
    from align.metrics.sliced_wasserstein import SlicedWasserstein
    from align.metrics.statistics import ImageStatistics

    return [FrechetThumbnails, ImageStatistics, SlicedWasserstein]


@hookimpl
def align_networks() -> list[type[NetworkSpec]]:
    """Networks of velocities."""
    from align.networks.dit import DiTConfig
    from align.networks.mlp import MLPConfig
    from align.networks.unet import UNetConfig

    return [DiTConfig, MLPConfig, UNetConfig]


@hookimpl
def align_autoencoders() -> list[type[AutoencoderSpec]]:
    """Autoencoders."""
    from align.networks.autoencoder import AutoencoderConfig
    from align.networks.pixel_shuffle import PixelShuffleConfig

    return [AutoencoderConfig, PixelShuffleConfig]


@hookimpl
def align_datasets() -> list[type[DatasetSpec]]:
    """Data sets."""
    from align.datasets.pictures import Pictures

    return [Pictures]


@hookimpl
def align_objectives() -> list[type[Objective]]:
    """Objectives of fine-tuning and of distillation."""
    from align.modes.distill.diagonal import DataTarget, TeacherTarget
    from align.modes.distill.eulerian import Eulerian
    from align.modes.distill.lagrangian import Lagrangian
    from align.modes.distill.mean_flow import MeanFlow
    from align.modes.distill.semigroup import Semigroup
    from align.modes.distill.shortcut import Shortcut
    from align.modes.finetune.draft import Draft
    from align.modes.finetune.gradient import GradientObjective
    from align.modes.finetune.stein import SteinObjective

    finetuning: list[type[Objective]] = [Draft, GradientObjective, SteinObjective]
    consistency: list[type[Objective]] = [Eulerian, Lagrangian, MeanFlow, Semigroup, Shortcut]
    return [*finetuning, *consistency, DataTarget, TeacherTarget]
