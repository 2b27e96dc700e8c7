"""Modes: what a run does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.catalog.hookspecs import hookimpl

if TYPE_CHECKING:
    from typing import Any

    from align.core.mode import AlignmentMode
    from align.core.objective import Objective


@hookimpl
def align_modes() -> list[type[AlignmentMode[Any]]]:
    """Modes."""
    from align.modes.autoencode import Autoencode
    from align.modes.distill.mode import Distill
    from align.modes.finetune.mode import FineTune
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

    sampling: list[type[AlignmentMode[Any]]] = [
        BestNoise,
        BestOfN,
        FlowMapGuidance,
        NoiseAscent,
        PathSearch,
        PosteriorDraws,
        Steer,
        TrajectoryTilting,
    ]
    training: list[type[AlignmentMode[Any]]] = [Autoencode, Distill, FineTune, Pretrain]
    studies: list[type[AlignmentMode[Any]]] = [
        BestOfGroups,
        Fidelity,
        PosteriorRecovery,
        TiltCheck,
        ValueCorrelation,
    ]
    return [*sampling, *training, *studies]


@hookimpl
def align_objectives() -> list[type[Objective]]:
    """Objectives of fine-tuning and of distillation."""
    from align.modes.distill.diagonal import DataTarget, TeacherTarget
    from align.modes.distill.eulerian import Eulerian
    from align.modes.distill.lagrangian import Lagrangian
    from align.modes.distill.mean_flow import MeanFlow
    from align.modes.distill.semigroup import Semigroup
    from align.modes.distill.shortcut import Shortcut
    from align.modes.finetune.adjoint_matching import AdjointMatching
    from align.modes.finetune.awm import AdvantageWeighted
    from align.modes.finetune.draft import Draft
    from align.modes.finetune.gradient import GradientObjective
    from align.modes.finetune.nft import NegativeAware
    from align.modes.finetune.refl import RewardFeedback
    from align.modes.finetune.stein import SteinObjective

    finetuning: list[type[Objective]] = [
        AdjointMatching,
        AdvantageWeighted,
        Draft,
        GradientObjective,
        NegativeAware,
        RewardFeedback,
        SteinObjective,
    ]
    consistency: list[type[Objective]] = [Eulerian, Lagrangian, MeanFlow, Semigroup, Shortcut]
    return [*finetuning, *consistency, DataTarget, TeacherTarget]
