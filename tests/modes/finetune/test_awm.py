"""Flow matching by advantages is least at the velocity of p (1 + A/w)."""

import attrs
import pytest
import torch

from align.core.problem import Problem
from align.core.streams import Streams
from align.modes.finetune.awm import AdvantageWeighted
from align.modes.finetune.target import TiltedTarget
from align.testing.worlds import line, line_part
from tests.modes.finetune.test_target import Student

ROWS, PATHS = 3_000, ["linear", "trigonometric"]


@attrs.frozen(eq=False)
class Weighted(Student):
    """The velocity of p(x1) max(0, 1 + A(x1)/w), by a sum over x1, and θ · features."""

    weight: object = None

    def velocity(self, x, t, cond):
        alpha, beta = self.path.alpha(t)[:, None], self.path.beta(t)[:, None]
        # As far from the middle of the data early, and of the likelihood late.
        places = torch.linspace(-5, 5, 150).double()
        x1 = torch.where(beta < alpha, places, (x - alpha * places) / beta.clamp(min=0.5))
        share = torch.exp(-((x - beta * x1) ** 2) / (2 * alpha**2)) * self.weight(x1)
        part = line_part(self.kind)
        share = share * sum(
            weight / std * torch.exp(-((x1 - mean) ** 2) / (2 * std**2))
            for weight, (mean,), std in zip(part.weights, part.means, part.stds, strict=True)
        )
        total, plain = share.sum(1, keepdim=True), Student.velocity(self, x, t, cond)
        denoiser = (share * x1).sum(1, keepdim=True) / total
        own = self.path.velocity_from_denoiser(denoiser, x, t) - self.base.velocity(x, t, cond)
        return plain + torch.where(total > 1e-12, own, 0).detach()


def slope(path, base_weight, level, of=None):
    """Mean slope of the loss in θ and its standard error, (5,), at the velocity of that weight."""
    model, reward = line(path)
    theta = torch.zeros(ROWS, 5, dtype=torch.float64, requires_grad=True)

    def clean(rows):
        return model.draw(rows.fold_in("data")), model.encode([""] * len(rows.samples))

    def tilt(x1):
        advantage = reward.total(x1.reshape(-1, 1), [""] * x1.numel()).reshape(x1.shape) - level
        return (1 + advantage / base_weight).clamp(min=0)

    target = TiltedTarget(
        problem=Problem(model, reward),
        student=Weighted(model, False, theta, weight=of or tilt),
        clean=clean,
        log_normalizer=torch.tensor([level], dtype=torch.float64),
    )
    loss = AdvantageWeighted(base_weight=base_weight).loss(target, Streams(3, tuple(range(ROWS))))
    assert loss.values.shape == loss.metrics["reward"].shape == (ROWS,)
    (gradients,) = torch.autograd.grad(loss.values.sum(), theta)
    return gradients.mean(0), gradients.std(0) / ROWS**0.5


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("base_weight", "level"), [(1.0, -4.0), (8.0, 0.0)])
def test_minimum_is_the_velocity_of_the_linear_tilt(path, base_weight, level):
    there, noise = slope(path, base_weight, level)
    assert (there.abs() < 4.5 * noise).all()
    elsewhere, noise = slope(path, base_weight, level, torch.ones_like)
    assert (elsewhere.abs() > 6 * noise).any()


def test_level_of_a_prompt_is_its_mean_reward():
    rewards = torch.tensor([1.0, 5.0])
    assert AdvantageWeighted().level(rewards) == 3.0
