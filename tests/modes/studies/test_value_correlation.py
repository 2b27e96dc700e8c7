"""Values of draws beside those of rollouts."""

import attrs
import pytest
import torch

from align.core.problem import Problem
from align.core.streams import Streams
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.modes.studies.value_correlation import ValueCorrelation
from align.modes.studies.values import pearson, value
from align.samplers.dps import DPS
from align.samplers.exact import ExactPosterior
from align.samplers.glass import Glass
from align.testing.worlds import line

MODE = ValueCorrelation(
    draws=400, times=(0.2, 0.5), inner_steps=(1, 8), particles=400, rollout_steps=50
)


@pytest.fixture(scope="module")
def problem():
    return Problem(*line(), sampler=ExactPosterior())


def test_exact_draws_agree_with_rollouts_and_rollouts_with_the_value(studied, problem):
    mode = attrs.evolve(MODE, times=(0.5, 0.7), draws=2000)
    state, found = studied(mode, problem, 64)
    assert found.value == "Pearson's r"
    assert [(p.panel, p.calls) for p in found.points] == [("t = 0.5", 0), ("t = 0.7", 0)]
    assert len(found.notes) == 2
    for noisy, rewards, point in zip(state.noisy, state.rewards, found.points, strict=True):
        exact, rolled = problem.model.value(noisy, problem.reward), value(rewards)
        assert rewards.shape == (400, 64)
        assert pearson(exact, rolled) > 0.97
        assert float((exact - rolled).abs().median()) < 0.1
        assert point.value > 0.97


def test_a_point_ranks_states_worse_than_draws(studied, problem):
    """At t = .5 the reward of the mean is not the mean of e^r."""
    mode = attrs.evolve(MODE, times=(0.5,))
    state, found = studied(mode, problem, 64)
    points = {}
    for sampler in (DPS(), Glass()):
        asked = attrs.evolve(problem, sampler=sampler)
        points[sampler.kind] = studied(mode, asked, 64, last=state)[1].points
    (point,), (one, eight) = points["dps"], points["glass"]
    assert (point.calls, one.calls, eight.calls) == (1, 1, 8)
    assert point.value == pytest.approx(one.value)
    assert point.value < eight.value - 0.02
    assert abs(eight.value - found.points[0].value) < 0.03


def test_rollouts_are_reused_by_the_next_arm(studied, problem):
    meter = Meter()
    model = GuardedModel(problem.model, "mixture", meter, 1 << 20)
    guarded = attrs.evolve(problem, model=model)
    state, _ = studied(MODE, guarded, 8)
    assert meter.calls["network"] == 2 * 8 * (MODE.flow_steps + 400 * 50)
    before = meter.calls["network"]
    again, found = studied(MODE, guarded, 8, last=state)
    assert meter.calls["network"] == before
    assert all(torch.equal(a, b) for a, b in zip(again.rewards, state.rewards, strict=True))
    assert len(found.points) == 2


def test_rollouts_of_a_state_do_not_depend_on_the_others(problem):
    """The values of some states are the same without the others."""
    mode = attrs.evolve(MODE, particles=3, rollout_steps=4)
    rewards = []
    for samples in ((0, 1, 2, 3), (3, 1)):
        asked = attrs.evolve(problem, cond=problem.model.encode([""] * len(samples)))
        streams = Streams(0, samples)
        state = mode.init(asked, streams)
        for index in range(mode.rollout_steps):
            state, _ = mode.step(asked, state, index, streams)
        rewards.append(state.rewards[0])
        assert not len(state.x)
    assert torch.allclose(rewards[0][:, [3, 1]], rewards[1])
