"""The forward-process loss is least at the derivative of the tilted velocity."""

import attrs
import pytest
import torch

from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.streams import Streams
from align.estimators.exact import Exact
from align.modes.finetune.nft import NegativeAware
from align.modes.finetune.target import TiltedTarget
from align.testing.worlds import line
from tests.modes.finetune.test_target import Student

ROWS, PATHS = 8_000, ["linear", "trigonometric"]


@attrs.frozen(eq=False)
class FirstOrder(Student):
    """b + factor · ∂b_a/∂a at a = 0, by the exact shift of a weak reward, and θ · features."""

    def velocity(self, x, t, cond):
        (term,) = line(self.kind)[1].terms
        weak = WeightedReward((attrs.evolve(term, weight=1e-5),))
        shift = (
            Exact()
            .estimate(
                Problem(self.base, weak, cond=cond),
                NoisyState(x, t, cond),
                streams=Streams(0, (0,)),
            )
            .shift
        )
        added = self.constant * 1e5 * self.path.denoiser_to_velocity(t)[:, None] * shift
        return Student.velocity(self, x, t, cond) + added.detach()


def target_of(path, factor, level=0.0):
    model, reward = line(path)
    theta = torch.zeros(ROWS, 5, dtype=torch.float64, requires_grad=True)

    def clean(rows):
        return model.draw(rows.fold_in("data")), model.encode([""] * len(rows.samples))

    return theta, TiltedTarget(
        problem=Problem(model, reward),
        student=FirstOrder(model, False, theta, factor),
        clean=clean,
        log_normalizer=torch.tensor([level], dtype=torch.float64),
    )


def slope(path, factor, level=0.0, clip=1e4):
    theta, target = target_of(path, factor, level)
    loss = NegativeAware(clip=clip).loss(target, Streams(3, tuple(range(ROWS))))
    assert loss.values.shape == loss.metrics["reward"].shape == (ROWS,)
    (gradients,) = torch.autograd.grad(loss.values.sum(), theta)
    return gradients.mean(0), gradients.std(0) / ROWS**0.5


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("level", [0.0, -4.0])
def test_first_order_tilt_is_the_minimum_whatever_the_level(path, level):
    there, noise = slope(path, 1.0, level)
    assert (there.abs() < 4.5 * noise).all()
    for factor in (0.0, 2.0):
        elsewhere, noise = slope(path, factor, level)
        assert (elsewhere.abs() > 6 * noise).any()


def test_loss_is_the_regression_on_the_advantage_and_a_constant():
    theta, target = target_of("linear", 0.0, -3.0)
    rows = Streams(3, tuple(range(ROWS)))
    objective = NegativeAware(clip=2.0)
    (noisy, x1), loss = target.noisy(rows, 0.0), objective.loss(target, rows)
    advantage = (loss.metrics["reward"] + 3.0).clamp(-2, 2)
    goal = target.student.path.velocity_from_denoiser(x1, noisy.x, noisy.t)
    base, velocity = target.base_velocity(noisy), target.velocity(noisy)
    weights = 1 / (1 + target.student.path.denoiser_to_velocity(noisy.t).square())
    squares = (velocity - base - advantage[:, None] * (goal - base)).square()[:, 0]
    (by_loss,) = torch.autograd.grad(loss.values.sum(), theta, retain_graph=True)
    (by_hand,) = torch.autograd.grad((weights * squares).sum(), theta)
    assert torch.allclose(by_loss, by_hand)


def test_level_of_a_prompt_is_its_mean_reward():
    _, target = target_of("linear", 0.0)
    objective, rows = NegativeAware(), Streams(5, tuple(range(256)))
    noisy, x1 = target.noisy(rows, 0.01)
    wanted = target.clean_draw(noisy, x1).rewards.mean()
    assert torch.allclose(objective.first_log_normalizer(target, rows)[0], wanted)
