"""Noises that climb, against the mode of reward and length, which is known for Gaussian data."""

import pytest
import torch

from align.core.problem import Problem
from align.core.streams import Streams
from align.models.mixture import Mixture
from align.modes.sampling.best_noise import BestNoise
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.noise_ascent import NoiseAscent
from align.testing.probes import Plain
from align.testing.worlds import measured, plane, sampled

MEAN, STD = (0.5, -1.0), 0.6


def gaussian(path):
    """Gaussian data in the plane and a reward of slope (0.6, −0.8), nearly."""
    part = Mixture(weights=(1.0,), means=(MEAN,), stds=(STD,), path=path)
    return part.build(torch.device("cpu")), measured(((0.6, -0.8),), (1e8,), 1e4)


def after(mode, world, samples, chunks=64):
    """The states after each round."""
    model, reward = world
    streams = Streams(0, samples)
    problem = Problem(model, reward, cond=model.encode([""] * len(samples)), chunks=chunks)
    states = [mode.init(problem, streams)]
    for index in range(mode.rounds):
        states.append(mode.step(problem, states[-1], index, streams)[0])
    return states


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_ascent_ends_where_reward_and_length_balance(path, weight):
    """s h = γ (ρ − 1/ρ) for the length ρ of the noise, along h, where a noise is put at t = 0."""
    mode = NoiseAscent(rounds=60, step_size=0.6, norm_weight=weight, start=0.0)
    found = after(mode, gaussian(path), (0, 1, 2, 3, 4))[-1].onward
    pull = STD / weight
    length = (pull + (pull**2 + 4) ** 0.5) / 2
    wanted = length * torch.tensor([0.6, -0.8]).double()
    assert torch.allclose(found, wanted.expand(5, 2), atol=1e-3)


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
@pytest.mark.parametrize("steps", [2, 6])
def test_ascent_through_steps_of_the_flow_balances_by_their_slope(path, steps):
    """Euler's steps of Gaussian data have a slope of their own in place of s, few ones too."""
    model, reward = gaussian(path)
    mode = NoiseAscent(rounds=60, step_size=0.6, start=0.0, preview_steps=steps)
    ends = mode.previews(
        model, torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double(), model.encode([""] * 2)
    )
    slope = (ends[1] - ends[0])[0]
    found = after(mode, (Plain(model), reward), (0, 1, 2))[-1].onward
    length = (slope + (slope**2 + 4) ** 0.5) / 2
    wanted = length * torch.tensor([0.6, -0.8]).double()
    assert torch.allclose(found, wanted.expand(3, 2), atol=1e-3)
    assert slope == pytest.approx(STD, abs=0.5 if steps == 2 else 0.2)


def test_first_noise_stays_where_no_noise_is_better():
    model, reward = plane()
    mode = NoiseAscent(rounds=3, flow_steps=4)
    found = sampled(mode, (model, reward.times(0.0)), 5)
    assert torch.equal(found, sampled(BestOfN(flow_steps=4), (model, reward), 5))


def test_scores_never_fall_and_rows_do_not_know_each_other():
    mode = NoiseAscent(rounds=6)
    many = torch.stack([s.score for s in after(mode, plane(), (0, 1, 2, 3, 4), chunks=2)[1:]])
    assert (many.diff(dim=0) >= 0).all()
    assert many[-1].mean() > many[0].mean() + 1
    assert torch.allclose(after(mode, plane(), (3,))[-1].score, many[-1, 3:4])


def test_neighbours_climb_to_the_reward_without_its_gradient():
    world = plane()
    one, few, many = (
        sampled(BestNoise(n=4, rounds=rounds, radius=0.3, flow_steps=30), world, 24)
        for rounds in (1, 4, 12)
    )
    rewards = [world[1].total(x1, [""] * 24).mean() for x1 in (one, few, many)]
    assert rewards[0] < rewards[1] < rewards[2]
    assert rewards[2] > -0.3


def test_neighbours_of_noise_have_its_law():
    model, reward = gaussian("linear")
    streams = Streams(0, tuple(range(4000)))
    problem = Problem(model, reward.times(0.0), cond=model.encode([""] * 4000))
    mode, states = BestNoise(n=1, rounds=2, radius=0.4), []
    state = mode.init(problem, streams)
    for index in range(2):
        # Nothing is better than a score of 0 where the reward is, so the old score is taken away.
        state, _ = mode.step(problem, state, index, streams)
        states.append(state.noise)
        state = type(state)(state.noise, state.x1, state.score - 1, state.onward)
    first, second = states
    assert not torch.equal(first, second)
    assert torch.allclose(second.std(0), torch.ones(2).double(), atol=0.05)
    assert torch.allclose((first * second).mean(0), torch.full((2,), 0.84**0.5).double(), atol=0.05)
    assert mode.path_kl(state) is None
