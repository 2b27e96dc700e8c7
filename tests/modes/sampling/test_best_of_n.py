"""Best of N: nested candidates, the best of which is kept."""

import pytest
import torch

from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.heun import Heun
from align.dynamics.ode import ODE
from align.dynamics.sde import SDE
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.testing.distances import w1
from align.testing.worlds import line, plane, sampled


@pytest.mark.parametrize("dynamics", [ODE(), SDE()])
def test_one_candidate_is_plain_sampling(dynamics):
    world = line()
    x1 = sampled(BestOfN(flow_steps=100, dynamics=dynamics), world, 4000)[:, 0]
    assert w1(x1, world[0].draw(Streams(1, tuple(range(50_000))))[:, 0]) < 0.08


def test_more_candidates_never_score_less():
    world = plane()
    rewards = []
    for n in (1, 2, 6):
        x1 = sampled(BestOfN(n=n, flow_steps=20), world, 32)
        rewards.append(world[1].total(x1, [""] * 32))
    assert (rewards[1] >= rewards[0]).all()
    assert (rewards[2] >= rewards[1]).all()
    assert float(rewards[2].mean()) > float(rewards[0].mean()) + 5


def test_candidates_differ_and_a_sample_is_the_same_in_any_batch():
    model, reward = plane()
    mode, streams = BestOfN(n=3, flow_steps=10, dynamics=SDE()), Streams(0, tuple(range(8)))
    problem = Problem(model, reward, cond=model.encode([""] * 8))
    state, seen = mode.init(problem, streams), []
    assert mode.steps == 3
    for index in range(3):
        fresh, info = mode.step(problem, mode.init(problem, streams), 0, streams)
        state, info = mode.step(problem, state, index, streams)
        seen.append(info.numbers["candidates"])
        assert info.numbers["reward"] >= info.numbers["candidates"]
    assert len(set(seen)) == 3
    assert torch.allclose(state.reward, reward.total(state.x1, [""] * 8))
    few = sampled(mode, (model, reward), (5, 2))
    assert torch.allclose(few, mode.finish(problem, state)[[5, 2]], atol=1e-12)
    assert fresh.reward.isfinite().all()


def test_a_shared_pool_gives_the_best_of_all_candidates_in_order():
    world = plane()
    model, reward = world
    problem = Problem(model, reward, cond=model.encode([""] * 6))
    mode, streams = BestOfN(n=3, flow_steps=10, pool="shared"), Streams(0, tuple(range(6)))
    state, own = mode.init(problem, streams), []
    for index in range(3):
        own.append(mode._sample(problem, streams.fold_in("candidate", index) if index else streams))
        state, _ = mode.step(problem, state, index, streams)
    everything = torch.cat(own)
    best = reward.total(everything, [""] * 18).topk(6)
    assert torch.allclose(state.reward, best.values)
    assert torch.allclose(mode.finish(problem, state), everything[best.indices])


@pytest.mark.parametrize("n", [1, 4, 100])
def test_divergence_is_that_of_the_largest_of_n(n):
    # The rank u of the best of n has density f = n u^(n−1) where one sample has density 1.
    u = (torch.arange(1_000_000).double() + 0.5) / 1_000_000
    density = n * u ** (n - 1)
    exact = float(torch.special.xlogy(density, density).mean())
    mode = BestOfN(n=n)
    state = mode.init(Problem(line()[0]), Streams(0, (0,)))
    assert mode.path_kl(state) == pytest.approx(exact, abs=1e-4)
    assert (BestOfN(n=n, pool="shared").path_kl(state) is None) == (n > 1)


SEARCH = BestOfN(n=16, flow_steps=7)


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (BestOfN(n=1, flow_steps=7), 1),
        (BestOfN(n=1, flow_steps=7, pool="shared"), 1),
        (BestOfN(n=4, flow_steps=7), 4),
        (SEARCH, 16),
        (BestOfN(n=4, flow_steps=7, pool="shared"), 0),
        (BestOfN(n=17, flow_steps=7), 0),
        (BestOfN(n=4, flow_steps=8), 0),
        (BestOfN(n=4, flow_steps=7, start=0.02), 0),
        (BestOfN(n=4, flow_steps=7, power=2.0), 0),
        (BestOfN(n=4, flow_steps=7, grid="uniform"), 0),
        (BestOfN(n=4, flow_steps=7, dynamics=Heun()), 0),
        (Steer(steps=7), 0),
    ],
)
def test_searches_share_the_candidates_of_the_same_flow(other, shared):
    assert SEARCH.steps_shared(other) == shared
