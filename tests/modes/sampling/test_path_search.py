"""Ways on from states that were led back, against closed forms for Gaussian data."""

import math
from itertools import pairwise

import pytest
import torch

from align.core.path import times_of
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.ode import ODE
from align.dynamics.sde import SDE
from align.models.mixture import Mixture
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.path_search import PathSearch
from align.samplers.dps import DPS
from align.samplers.look_ahead import LookAhead
from align.testing.distances import sliced_w2
from align.testing.worlds import line, measured, plane, sampled

PATHS = ["linear", "trigonometric"]
# Means of the highest of so many standard normal numbers.
HIGHEST = {1: 0.0, 2: 1 / math.sqrt(math.pi), 3: 1.5 / math.sqrt(math.pi)}


def rising(path):
    """Gaussian data on the line and a reward that rises all along it."""
    part = Mixture(weights=(1.0,), means=((0.4,),), stds=(0.7,), path=path)
    return part.build(torch.device("cpu")), measured(((1.0,),), (1e8,), 1e4)


def euler(model, times):
    """(a, b): Euler steps through `times` take x to a x + b, for Gaussian data."""
    ends, cond = torch.tensor([[0.0], [1.0]], dtype=model.dtype), model.encode(["", ""])
    for now, later in pairwise(times):
        ends = ends + (later - now) * model.velocity(ends, times_of(ends, now), cond)
    return float(ends[1, 0] - ends[0, 0]), float(ends[0, 0])


def moments(mode, world):
    """Mean and deviation of states before the last choice, as single ways are followed."""
    model, _ = world
    times = mode.init(Problem(*world, cond=model.encode([""])), Streams(0, (0,))).times
    path, mean, variance = model.path, 0.0, 1.0
    for index in range(mode.steps):
        now, end = index * mode.onward, min((index + 1) * mode.onward, mode.flow_steps)
        begin = now - mode.back * (index > 0)
        if index:
            t, s = (torch.tensor(times[k], dtype=torch.float64) for k in (now, begin))
            share = float(path.beta(s) / path.beta(t))
            missing = float(path.alpha(s)) ** 2 - (share * float(path.alpha(t))) ** 2
            mean = share * mean + HIGHEST[mode.ways] * math.sqrt(missing)
            variance = share**2 * variance + missing
        factor, shift = euler(model, times[begin : end + 1])
        mean, variance = factor * mean + shift, factor**2 * variance
    return mean, math.sqrt(variance)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("onward", "back", "flow_steps"), [(1, 1, 3), (8, 5, 20)])
def test_best_of_three_ways_gains_what_their_noise_allows(path, onward, back, flow_steps):
    """Each choice adds the mean of the highest of three, of noise that later steps back shrink."""
    world = rising(path)
    mode = PathSearch(survivors=1, ways=3, onward=onward, back=back, flow_steps=flow_steps)
    mean, _ = moments(mode, world)
    found = sampled(mode, world, 4000, sampler=LookAhead())[:, 0]
    assert float(found.mean()) == pytest.approx(mean, abs=4 * float(found.std()) / 4000**0.5)
    assert mean > 0.8  # the model's own: 0.4


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("onward", "flow_steps"), [(2, 5), (6, 18)])
def test_of_two_states_with_one_way_each_the_better_end_is_kept(path, onward, flow_steps):
    world = rising(path)
    mode = PathSearch(survivors=2, ways=1, onward=onward, back=1, flow_steps=flow_steps)
    mean, std = moments(mode, world)
    found = sampled(mode, world, 4000, sampler=DPS())[:, 0]
    wanted = mean + HIGHEST[2] * std
    assert float(found.mean()) == pytest.approx(wanted, abs=4 * float(found.std()) / 4000**0.5)


@pytest.mark.parametrize(("path", "dynamics"), [("linear", ODE()), ("trigonometric", SDE())])
def test_a_single_way_back_and_on_keeps_the_models_law(path, dynamics):
    model, reward = line(path)
    mode = PathSearch(survivors=1, ways=1, onward=20, back=15, flow_steps=80, dynamics=dynamics)
    found = sampled(mode, (model, reward), 1500, sampler=DPS())
    assert sliced_w2(found, model.draw(Streams(1, tuple(range(6000))))) < 0.1


@pytest.mark.parametrize("dynamics", [ODE(), SDE()])
def test_one_round_is_best_of_n(dynamics):
    search = PathSearch(survivors=3, onward=8, flow_steps=8, dynamics=dynamics)
    found = sampled(search, plane(), 5, sampler=DPS())
    assert torch.equal(found, sampled(BestOfN(n=3, flow_steps=8, dynamics=dynamics), plane(), 5))


def test_states_that_go_on_are_the_best_of_all_ways():
    """Rewards of the ends fall from the best to the last that goes on, which beats the mean."""
    model, reward = plane()
    streams, cond = Streams(0, (0, 1, 2, 3)), model.encode([""] * 4)
    problem = Problem(model, reward, LookAhead(), cond=cond)
    mode = PathSearch(survivors=3, ways=4, onward=4, back=2, flow_steps=20)
    state, _ = mode.step(problem, mode.init(problem, streams), 0, streams)
    state, info = mode.step(problem, state, 1, streams)
    t = times_of(state.x, state.times[8])
    rewards = reward.total(model.to_data(state.x, t, cond.tile(3)), [""] * 12).reshape(3, 4)
    assert (rewards.diff(dim=0) <= 0).all()
    assert info.numbers["reward"] == pytest.approx(float(rewards[0].mean()))
    assert (rewards[-1] > info.numbers["candidates"]).sum() >= 2


def test_ways_go_back_by_half_of_what_they_go_on_unless_it_is_said():
    assert [PathSearch(onward=steps).back for steps in (1, 5, 6)] == [1, 3, 3]


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="'back' must be at most 'onward', 3, got 4"):
        PathSearch(onward=3, back=4)
