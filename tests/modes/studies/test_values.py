"""Rollouts, and how two sets of values agree."""

import attrs
import pytest
import torch

from align.core.errors import PartError
from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.streams import Streams
from align.modes.studies.values import advanced, noise, pearson, scored, states, value
from align.testing.distances import w1
from align.testing.worlds import line

MANY = 4000


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_rollouts_end_in_the_posterior(kind):
    model, reward = line(kind)
    problem = Problem(model, reward)
    for time, place in ((0.1, 0.4), (0.5, -0.3)):
        one = NoisyState(
            torch.full((1, 1), place).double(), torch.full((1,), time).double(), model.encode([""])
        )
        noisy = one.tile(MANY)
        exact = model.draw_posterior(one, 40_000, Streams(1, (0,)))[:, 0, 0]
        x, streams = noisy.x, Streams(0, tuple(range(MANY)))
        for step in range(50):
            x = advanced(problem, noisy, x, step, 50, streams)
        # Other exact draws are .01 to .03 away; what the posterior spreads over is 1 and .5.
        assert w1(x[:, 0], exact) < 0.06


def test_rewards_are_the_same_in_pieces():
    model, reward = line()
    problem = Problem(model, reward, cond=model.encode([""] * 3))
    ends = Streams(0, (0, 1, 2)).normal((1,), draws=7)
    whole = problem.reward_of(ends, problem.cond)
    assert torch.allclose(scored(problem, ends), whole)
    assert torch.allclose(scored(attrs.evolve(problem, chunks=1), ends), whole)
    assert whole.std() > 0.1


def test_states_start_from_one_noise():
    model, reward = line()
    problem = Problem(model, reward, cond=model.encode([""] * 500))
    early, late = states(problem, (1e-6, 0.8), 40, Streams(0, tuple(range(500))))
    assert pearson(early.x[:, 0], late.x[:, 0]) > 0.9
    t = late.t[:1].expand(20_000)
    fresh = Streams(1, tuple(range(20_000)))
    law = model.path.interpolate(fresh.fold_in("noise").normal((1,)), model.draw(fresh), t)
    assert w1(late.x[:, 0], law[:, 0]) < 0.15
    with pytest.raises(PartError, match=r"run.samples: .*at least 2"):
        states(problem, (0.5,), 4, Streams(0, (0,)))


def test_a_value_is_a_log_mean():
    rewards = torch.tensor([[0.0, 5.0], [1.0, 5.0]])
    mean = torch.tensor([(1 + 2.718281828459045) / 2]).log()
    assert torch.allclose(value(rewards), torch.tensor([float(mean), 5.0]).double())


def test_correlation_forgets_scale_and_nothing_else():
    a = Streams(0, tuple(range(1000))).normal(())
    b = Streams(1, tuple(range(1000))).normal(())
    assert pearson(a, 3 * a - 7) == pytest.approx(1)
    assert pearson(a, -a) == pytest.approx(-1)
    assert pearson(a, a + b) == pytest.approx(0.5**0.5, abs=0.05)
    with pytest.raises(PartError, match="all states have the same value"):
        pearson(a, torch.ones(1000))


def test_noise_of_rollouts_limits_the_correlation():
    """Rewards with a noise that is averaged over M: r of the true value with theirs is foretold."""
    true = Streams(0, tuple(range(2000))).normal(())
    for spread, rollouts in ((0.05, 40), (1.0, 4)):
        apart = Streams(1, tuple(range(2000))).normal((), draws=rollouts)
        rewards = true + spread * apart
        told = float(noise(0.5, rewards).partition("limits r to ")[2].split()[0])
        assert told == pytest.approx(pearson(true, value(rewards)), abs=0.06)
    assert told < 0.9
