"""Jumps and moves up the reward in turn, against the control that is known for Gaussian data."""

import math

import pytest
import torch

from align.core.errors import OptionError
from align.core.problem import Problem
from align.core.streams import Streams
from align.models.mixture import Mixture
from align.modes.sampling.fmrg import FlowMapGuidance
from align.testing.probes import Plain
from align.testing.worlds import line, measured, plane, sampled

MEAN, STD = (0.5, -1.0), 0.6
SLOPE = torch.tensor([0.6, -0.8]).double()
PATHS = ["linear", "trigonometric"]


def gaussian(path):
    """Gaussian data in the plane and a reward of slope (0.6, −0.8), nearly."""
    part = Mixture(weights=(1.0,), means=(MEAN,), stds=(STD,), path=path)
    return part.build(torch.device("cpu")), measured(((0.6, -0.8),), (1e8,), 1e4)


def moved(mode, path):
    """How far three samples end from where their noise leads, (3, 2)."""
    model, reward = gaussian(path)
    noise = Streams(0, (0, 1, 2)).fold_in("start").normal((2,))
    cond, start = model.encode([""] * 3), torch.full((3,), mode.start).double()
    return sampled(mode, (model, reward), 3) - model.to_data(noise, start, cond)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_few_steps_move_samples_by_the_sum_of_their_guidance(path, steps):
    """A move δ at time u is one of S δ / √(α² + β² S²) at the end, and so is its gradient."""
    mode = FlowMapGuidance(steps=steps, scale=0.7, start=0.0)
    model, _ = gaussian(path)
    ends = torch.arange(1, steps + 1).double() / steps
    variances = model.path.alpha(ends) ** 2 + (STD * model.path.beta(ends)) ** 2
    length = 0.7 / steps * (STD**2 / variances).sum()
    assert torch.allclose(moved(mode, path), (length * SLOPE).expand(3, 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("path", "length"), [("linear", math.pi / 2 * STD), ("trigonometric", STD)]
)
def test_many_steps_are_the_control_of_least_effort(path, length):
    """∫ S² dt / (α² + β² S²) = S π/2 on the linear path and S on the trigonometric one."""
    mode = FlowMapGuidance(steps=40, scale=1.0, start=0.0)
    assert torch.allclose(moved(mode, path), (length * SLOPE).expand(3, 2), atol=0.01)


@pytest.mark.parametrize("path", PATHS)
def test_move_before_plain_jumps_is_carried_along(path):
    model, _ = gaussian(path)
    half = torch.tensor(0.5).double()
    variance = model.path.alpha(half) ** 2 + (STD * model.path.beta(half)) ** 2
    for steps, length in ((2, 0.5 * STD**2 / variance), (3, 0.0)):
        mode = FlowMapGuidance(steps=steps, guided_steps=3 - steps, start=0.0)
        assert torch.allclose(moved(mode, path), (length * SLOPE).expand(3, 2), atol=1e-6)


def test_renormalised_guidance_is_as_long_as_the_jump():
    """With one step the jump is x1 − x0, and guidance as long moves x1 by that much."""
    model, _ = gaussian("linear")
    noise = Streams(0, (0, 1, 2)).fold_in("start").normal((2,))
    jump = model.to_data(noise, torch.zeros(3).double(), model.encode([""] * 3)) - noise
    mode = FlowMapGuidance(steps=1, start=0.0, guidance_norm="renorm", scale=0.5)
    assert torch.allclose(moved(mode, "linear"), 0.5 * jump.norm(dim=1)[:, None] * SLOPE)


def test_reward_rises_and_rows_do_not_know_each_other():
    model, reward = plane()
    mode = FlowMapGuidance(steps=4, scale=0.05)

    def made(samples, chunks):
        problem = Problem(model, reward, cond=model.encode([""] * len(samples)), chunks=chunks)
        streams = Streams(0, samples)
        state = mode.init(problem, streams)
        for index in range(mode.steps):
            state, _ = mode.step(problem, state, index, streams)
        return mode.finish(problem, state)

    many = made(tuple(range(8)), 3)
    plain = sampled(FlowMapGuidance(steps=1, guided_steps=0), (model, reward), 8)
    rewards = [reward.total(x1, [""] * 8).mean() for x1 in (plain, many)]
    assert rewards[1] > 0.5 * rewards[0]
    assert torch.allclose(made((5,), 64), many[5:6])


def test_model_without_a_flow_map_is_refused_with_a_cure():
    with pytest.raises(OptionError, match="use mode 'steer'"):
        FlowMapGuidance().check_model(Plain(line()[0]))


def test_more_guided_steps_than_steps_are_refused():
    with pytest.raises(ValueError, match="at most 'steps', 4, got 5"):
        FlowMapGuidance(steps=4, guided_steps=5)
