"""The gradient of guesses from late times, against its closed form."""

import pytest
import torch

from align.core.problem import Problem
from align.core.streams import Streams
from align.modes.finetune.refl import RewardFeedback
from align.modes.finetune.target import TiltedTarget
from align.testing.worlds import line, measured
from tests.modes.finetune.test_target import Student


def target_of(path, theta, reward):
    model = line(path)[0]

    def clean(rows):
        return model.draw(rows.fold_in("data")), model.encode([""] * len(rows.samples))

    return TiltedTarget(
        problem=Problem(model, reward),
        student=Student(model, False, theta),
        clean=clean,
        log_normalizer=torch.zeros(1, dtype=torch.float64),
    )


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
@pytest.mark.parametrize("earliest", [0.3, 0.9])
def test_gradient_is_that_of_the_last_call_alone(path, earliest):
    """A velocity that is θ higher has a denoiser θ / c_t higher, and a reward of slope h = 0.2."""
    rows = Streams(2, tuple(range(6)))
    theta = torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
    target = target_of(path, theta, measured(((1.0,),), (2e7,), 1e4))
    loss = RewardFeedback(earliest=earliest, flow_steps=5).loss(target, rows)
    (gradient,) = torch.autograd.grad(loss.values.sum(), theta)
    t = earliest + (0.999 - earliest) * rows.fold_in("time").uniform(())
    wanted = -0.2 / target.student.path.denoiser_to_velocity(t)
    assert torch.allclose(gradient[:, 0], wanted, rtol=1e-3)
    assert torch.equal(loss.values, -loss.metrics["reward"])


def test_guesses_are_the_samples_where_times_are_late():
    model, reward = line()
    rows, theta = Streams(2, tuple(range(400))), torch.zeros(400, 5).double()
    target = target_of("linear", theta, reward)
    loss = RewardFeedback(earliest=0.99, flow_steps=30).loss(target, rows)
    samples = reward.total(model.draw(rows), [""] * 400)
    assert abs(loss.metrics["reward"].mean() - samples.mean()) < 5 * samples.std() / 20


def test_a_row_does_not_know_the_others():
    theta = torch.zeros(1, 5).double()
    objective = RewardFeedback(flow_steps=3)
    many, one = (
        objective.loss(target_of("linear", theta, line()[1]), Streams(1, numbers)).values
        for numbers in ((3, 8, 5), (8,))
    )
    assert torch.allclose(many[1:2], one)
