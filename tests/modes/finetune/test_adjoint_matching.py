"""Adjoint Matching: at the tilted law's velocity its loss is least, as steps get short."""

import pytest
import torch

from align.core.problem import Problem
from align.core.streams import Streams
from align.models.mixture import Mixture
from align.modes.finetune.adjoint_matching import AdjointMatching, step_factors
from align.modes.finetune.target import TiltedTarget
from align.testing.worlds import line, measured
from tests.modes.finetune.test_target import Student

ROWS = 800
PATHS = ["linear", "trigonometric"]


def target_of(model, reward, student):
    def clean(rows):
        return model.draw(rows.fold_in("data")), model.encode([""] * len(rows.samples))

    return TiltedTarget(
        problem=Problem(model, reward),
        student=student,
        clean=clean,
        log_normalizer=torch.zeros(1, dtype=torch.float64),
    )


def slope(path, steps, tilted):
    """Mean slope of the loss in θ, on the mixture of the line, and its standard error: (5,)."""
    model, reward = line(path)
    theta = torch.zeros(ROWS, 5, dtype=torch.float64, requires_grad=True)
    objective = AdjointMatching(flow_steps=steps, matched=1)
    target = target_of(model, reward, Student(model, tilted, theta))
    loss = objective.loss(target, Streams(3, tuple(range(ROWS))))
    assert loss.values.shape == loss.metrics["reward"].shape == (ROWS,)
    (gradients,) = torch.autograd.grad(loss.values.sum(), theta)
    return gradients.mean(0), gradients.std(0) / ROWS**0.5


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("steps", "allowed"), [(6, 0.12), (16, 0.1)])
def test_loss_is_least_at_the_tilted_law_as_steps_get_short(path, steps, allowed):
    there, _ = slope(path, steps, tilted=True)
    elsewhere, _ = slope(path, steps, tilted=False)
    assert there.norm() < allowed * elsewhere.norm()


@pytest.mark.parametrize("path", PATHS)
def test_goals_of_gaussian_data_and_a_linear_reward_are_exact(path):
    """D* − D = Cov[x1 | x] h for a reward of slope h, and the adjoint has no noise."""
    model = Mixture(weights=(1.0,), means=((0.4,),), stds=(0.8,), path=path).build(
        torch.device("cpu")
    )
    # A measurement far away is a linear reward: −(x − y)²/(2 s²) has slope (y − x)/s².
    reward = measured(((1.0,),), (2e7,), 1e4)
    objective, rows = AdjointMatching(flow_steps=25), Streams(1, tuple(range(8)))
    target = target_of(model, reward, model)
    cond, times = model.encode([""] * 8), objective._times(target, rows)
    states, x1 = objective._simulated(target, cond, times, rows)
    goals, _ = objective._goals(target, cond, times, states, x1)
    for index in (1, 10, 22):
        t = times[index]
        alpha, beta = model.path.alpha(t), model.path.beta(t)
        covariance = 0.64 * alpha**2 / (alpha**2 + 0.64 * beta**2)
        shift = covariance * 0.2
        velocity = model.velocity(states[index - 1], t, cond)
        wanted = velocity[:, 0] + model.path.denoiser_to_velocity(t) * shift
        assert torch.allclose(goals[index - 1][:, 0], wanted, atol=0.02)


@pytest.mark.parametrize("path", PATHS)
def test_paths_of_the_base_model_have_its_law(path):
    model, reward = line(path)
    objective, rows = AdjointMatching(flow_steps=24), Streams(1, tuple(range(ROWS)))
    target = target_of(model, reward, model)
    cond, times = model.encode([""] * ROWS), objective._times(target, rows)
    _, x1 = objective._simulated(target, cond, times, rows)
    exact = model.draw(Streams(2, tuple(range(ROWS))))
    assert (x1.sort(0).values - exact.sort(0).values).abs().mean() < 0.15


def test_steps_from_noise_and_to_data_have_no_limits_to_take():
    path = line()[0].path
    ends = torch.tensor([0.0, 0.5]).double(), torch.tensor([0.5, 1.0]).double()
    state, gain, std = step_factors(path, *ends)
    assert torch.equal(state, torch.zeros(2).double())
    assert torch.equal(gain, torch.tensor([0.5, 1.0]).double())
    assert torch.equal(std, torch.tensor([0.5, 0.0]).double())
