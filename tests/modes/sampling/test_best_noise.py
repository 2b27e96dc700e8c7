"""Previews by one jump, and the flow from the noise of the best."""

import math

import attrs
import pytest
import torch

from align.core.errors import OptionError
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.sde import SDE
from align.models.mixture import GaussianMixture
from align.modes.sampling.best_noise import BestNoise
from align.modes.sampling.best_of_n import BestOfN
from align.testing.probes import Plain
from align.testing.worlds import line, sampled


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
@pytest.mark.parametrize(("steps", "share", "near"), [(12, 0.75, 1.0), (48, 0.9, 0.2)])
def test_previews_by_the_exact_map_choose_what_best_of_n_chooses(path, steps, share, near):
    """On the line the map's jump is the flow's end, so that both keep the same noise."""
    world = line(path)
    previewed = sampled(BestNoise(n=5, flow_steps=steps), world, 64)
    best = sampled(BestOfN(n=5, flow_steps=steps), world, 64)
    alike = (previewed - best).abs()[:, 0] < 1e-12
    assert alike.double().mean() > share
    # Where steps are so few that two noises end in another order, their rewards are nearly equal.
    rewards = [world[1].total(x1, [""] * 64) for x1 in (previewed, best)]
    assert (rewards[1] - rewards[0]).max() < near


@pytest.mark.parametrize("dynamics", [BestNoise().dynamics, SDE()])
def test_one_noise_is_plain_sampling(dynamics):
    one, plain = (
        sampled(mode(n=1, flow_steps=20, dynamics=dynamics), line(), 4)
        for mode in (BestNoise, BestOfN)
    )
    assert torch.equal(one, plain)
    assert BestNoise(n=1).is_base


def test_previews_cost_a_call_each_and_their_batches_change_nothing(monkeypatch):
    model, reward = line()
    jumps, steps, velocity, jump = [], [], GaussianMixture.velocity, GaussianMixture.jump

    def counted_jump(self, x, s, u, cond):
        jumps.append(len(x))
        return jump(self, x, s, u, cond)

    def counted_velocity(self, x, t, cond):
        steps.append(len(x))
        return velocity(self, x, t, cond)

    monkeypatch.setattr(GaussianMixture, "jump", counted_jump)
    monkeypatch.setattr(GaussianMixture, "velocity", counted_velocity)
    streams, mode = Streams(0, (0, 1, 2)), BestNoise(n=7, flow_steps=4)
    whole = Problem(model, reward, cond=model.encode([""] * 3))
    found = []
    for problem in (whole, attrs.evolve(whole, chunks=6)):
        state = mode.init(problem, streams)
        for index in range(mode.steps):
            state, _ = mode.step(problem, state, index, streams)
        found.append(mode.finish(problem, state))
    assert torch.allclose(found[0], found[1], atol=1e-12)
    assert sum(jumps) == 2 * 7 * 3
    assert sum(steps) == 2 * 4 * 3
    assert mode.path_kl(state) == pytest.approx(math.log(7) - 6 / 7)


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
@pytest.mark.parametrize("steps", [3, 12])
def test_previews_by_all_steps_of_the_flow_are_best_of_n_without_a_map(path, steps):
    model, reward = line(path)
    world = Plain(model), reward
    BestNoise(preview_steps=steps).check_model(world[0])
    previewed = sampled(BestNoise(n=5, preview_steps=steps, flow_steps=steps), world, 16)
    assert torch.equal(previewed, sampled(BestOfN(n=5, flow_steps=steps), world, 16))


def test_rounds_of_previews_by_steps_climb_without_a_map():
    model, reward = line()
    one, many = (
        sampled(
            BestNoise(n=4, rounds=rounds, preview_steps=4, flow_steps=24),
            (Plain(model), reward),
            16,
        )
        for rounds in (1, 8)
    )
    assert reward.total(many, [""] * 16).mean() > reward.total(one, [""] * 16).mean() + 0.1


def test_model_without_a_map_is_refused_with_a_cure():
    with pytest.raises(OptionError, match="with preview_steps = 8"):
        BestNoise().check_model(Plain(line()[0]))
