"""Each check of an objective catches one that breaks it."""

import unittest
from typing import ClassVar

import attrs
import pytest
import torch

from align.core.errors import PartError
from align.core.objective import Loss
from align.core.option import option
from align.modes.distill.consistency import ConsistencyLoss
from align.modes.distill.diagonal import DiagonalTarget
from align.modes.distill.eulerian import Eulerian
from align.modes.finetune.objective import FinetuneObjective
from align.modes.finetune.stein import SteinObjective
from align.testing.checks import objective as checks


@attrs.frozen(kw_only=True)
class Transport(ConsistencyLoss):
    """The Eulerian loss, spoilt by `fault`."""

    kind: ClassVar[str] = "transport"

    fault: str = option("what is wrong", default="")

    def residual(self, inner, s, u):
        if self.fault == "global":
            torch.rand(())
        if self.fault == "biased":
            return Eulerian().residual(inner, s, u) + 0.01
        if self.fault == "blind":
            return 0 * Eulerian().residual(inner, s, u)
        if self.fault == "trains the teacher":
            return inner.average(inner.state(s), s, u) - inner.teacher(inner.state(s), s)
        if self.fault == "mixes rows":
            y = inner.state(s)
            return Eulerian().residual(inner, s, u) * (1 + y.mean())
        return Eulerian().residual(inner, s, u)


@attrs.frozen(kw_only=True)
class Target(DiagonalTarget):
    """The inner velocity, spoilt by `fault`."""

    kind: ClassVar[str] = "target"

    fault: str = option("what is wrong", default="")

    def target(self, inner, s):
        y = inner.state(s)
        if self.fault == "biased":
            return inner.teacher(y, s) + 0.05
        if self.fault == "trains the map":
            return inner.average(y, s, s)
        return inner.teacher(y, s).detach()


@attrs.frozen(kw_only=True)
class Matching(FinetuneObjective):
    """Stein's or the gradient's regression, spoilt by `fault`."""

    kind: ClassVar[str] = "matching"

    fault: str = option("what is wrong", default="")

    @property
    def needs_gradient(self):
        return self.fault == "says gradient"

    @property
    def needs_sampler(self):
        return self.fault != "says no sampler"

    @property
    def weighs(self):
        return self.fault != "says it does not weigh"

    def loss(self, target, rows):
        if self.fault == "asks for the gradient":
            noisy, x1 = target.noisy(rows, 0.0)
            reward = target.problem.reward_of(x1.requires_grad_()[None], noisy.cond)
            torch.autograd.grad(reward.sum(), x1)
        if self.fault == "needs no sampler":
            return SteinObjective(draws_from="data").loss(target, rows)
        loss = SteinObjective(draws=2).loss(target, rows)
        if self.fault == "no metric":
            return Loss(loss.values, {}, loss.weights)
        if self.fault == "wrong minimum":
            noisy, _ = target.noisy(rows, 0.0)
            pull = (target.velocity(noisy) - 3).square().mean(1)
            return attrs.evolve(loss, values=loss.values + pull.double())
        if self.fault == "base":
            noisy, _ = target.noisy(rows, 0.0)
            gap = target.velocity(noisy) - target.base_velocity(noisy)
            return attrs.evolve(loss, values=gap.square().mean(1))
        return loss


FAULTS = [
    (Transport, "global", "random_state"),
    (Transport, "biased", "exact_map"),
    (Transport, "blind", "wrong_map"),
    (Transport, "trains the teacher", "gradients"),
    (Transport, "mixes rows", "rows_are_independent"),
    (Target, "biased", "diagonal_mean"),
    (Target, "trains the map", "gradients"),
    (Matching, "no metric", "loss"),
    (Matching, "says it does not weigh", "loss"),
    (Matching, "wrong minimum", "fixed_point"),
    (Matching, "base", "base_is_no_fixed_point"),
    (Matching, "asks for the gradient", "needs_gradient"),
    (Matching, "says gradient", "needs_gradient"),
    (Matching, "needs no sampler", "needs_sampler"),
    (Matching, "says no sampler", "needs_sampler"),
]


@pytest.mark.parametrize(("cls", "fault", "name"), FAULTS)
def test_check_of_a_spoilt_objective_fails(cls, fault, name):
    check = getattr(checks, name)
    with pytest.raises((AssertionError, PartError)):
        check(checks.subject(cls(fault=fault), None))


@pytest.mark.parametrize("cls", [Transport, Target, Matching])
@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_checks_of_a_sound_objective_pass(cls, check):
    try:
        check(checks.subject(cls(), None))
    except unittest.SkipTest as reason:
        pytest.skip(str(reason))


def test_every_check_is_seen_to_fail():
    assert {name for _, _, name in FAULTS} == {c.__name__ for c in checks.CHECKS} - {"form"}
