"""Particles weighed by the reward ahead, against the tilted law, with many steps and with few."""

import pytest
import torch

from align.core.errors import OptionError
from align.core.model import ToData
from align.core.problem import Problem
from align.core.streams import Streams
from align.models.mixture import Mixture
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.trajectory_tilting import TrajectoryTilting
from align.testing.distances import sliced_w2
from align.testing.probes import Plain
from align.testing.worlds import line, measured, plane, sampled

PATHS = ["linear", "trigonometric"]


def weighed(mode, world, samples, chunks=64):
    """The states after each step."""
    model, reward = world
    streams = Streams(0, samples)
    problem = Problem(model, reward, cond=model.encode([""] * len(samples)), chunks=chunks)
    states = [mode.init(problem, streams)]
    for index in range(mode.steps):
        states.append(mode.step(problem, states[-1], index, streams)[0])
    return states


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("steps", [1, 8, 24])
def test_particles_have_the_tilted_law_with_many_steps_and_with_few(path, steps):
    world, rows = line(path), 160
    exact = world[0].draw_tilted(world[1], Streams(1, tuple(range(4 * rows))))
    found = sampled(TrajectoryTilting(particles=16, steps=steps), world, rows)
    assert sliced_w2(found, exact) < 0.2  # unsteered: 1.2


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("start", [0.0, 0.2])
def test_weights_of_one_step_are_the_rewards_of_the_jumps_ends(path, start):
    """X_{t,1}(x) = m + s (x − β m) / √(α² + β² s²) for Gaussian data; weights are e^r at any t."""
    mean, std = 0.4, 0.8
    part = Mixture(weights=(1.0,), means=((mean,),), stds=(std,), path=path)
    model, reward = part.build(torch.device("cpu")), measured(((1.0,),), (1.0,), 0.5)
    mode = TrajectoryTilting(particles=5, steps=1, start=start)
    before, after = weighed(mode, (model, reward), (0, 1, 2))
    t = torch.tensor(start, dtype=torch.float64)
    alpha, beta = model.path.alpha(t), model.path.beta(t)
    ends = mean + std * (before.x - beta * mean) / (alpha**2 + (beta * std) ** 2).sqrt()
    wanted = -(ends - 1).square() / (2 * 0.5**2)
    assert torch.allclose(after.log_weights.flatten(), wanted[:, 0])
    assert all((end == ends[:, 0]).any() for end in after.x[:, 0])


def test_weights_vary_less_than_rewards_where_particles_follow():
    """The weights' spread is what steps between noise and data are for."""
    wide, narrow = (
        weighed(
            TrajectoryTilting(particles=32, steps=steps, ess_threshold=0.0), plane(), (0, 1, 2, 3)
        )[-1].log_weights
        for steps in (1, 24)
    )
    assert narrow.std(0).mean() < 0.3 * wide.std(0).mean()


def test_without_a_reward_the_first_particle_follows_the_flow():
    model, reward = line()
    mode = TrajectoryTilting(particles=3, steps=40, clamp=1e-12)
    found = weighed(mode, (model, reward.times(0.0)), (0, 1, 2, 3))[-2].x[:4]
    flow = sampled(BestOfN(flow_steps=40), (model, reward), 4)
    assert torch.allclose(found, flow, atol=0.1)
    assert not weighed(mode, (model, reward.times(0.0)), (0, 1))[-1].log_weights.any()


def test_rows_do_not_know_each_other_and_chunks_change_nothing():
    mode = TrajectoryTilting(particles=4, steps=5, ess_threshold=0.9)
    many = weighed(mode, plane(), (0, 1, 2, 3), chunks=3)[-1].x
    assert torch.allclose(weighed(mode, plane(), (2,))[-1].x, many[2:3], atol=1e-9)


class ToDataAlone(Plain, ToData):
    """A model that jumps to data and to no other time, so that its velocity holds no score."""

    def to_data(self, x, s, cond):
        return x


@pytest.mark.parametrize("kind", [Plain, ToDataAlone])
def test_model_without_a_flow_map_is_refused_with_a_cure(kind):
    with pytest.raises(OptionError, match="use mode 'steer' with particles"):
        TrajectoryTilting().check_model(kind(line()[0]))
