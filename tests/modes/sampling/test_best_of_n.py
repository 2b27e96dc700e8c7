"""Best of N: nested candidates, the best of which is kept."""

import attrs
import pytest
import torch

from align.core.model import Condition, FlowModel
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
    assert BestOfN(n=n, pool="shared").independent == (n == 1)
    assert BestOfN(n=n).independent


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


@attrs.frozen(eq=False)
class Watched(FlowModel):
    """A model that writes down how many rows each call has."""

    inner: FlowModel
    seen: list
    path: object = attrs.field(default=attrs.Factory(lambda self: self.inner.path, True))
    shape: tuple = attrs.field(default=attrs.Factory(lambda self: self.inner.shape, True))
    domain: str = "vector"
    dtype: torch.dtype = torch.float64
    device: torch.device = torch.device("cpu")

    def encode(self, prompts):
        return Condition(tuple(prompts), {"number": torch.tensor([float(p) for p in prompts])})

    def velocity(self, x, t, cond):
        self.seen.append(len(x))
        return self.inner.velocity(x, t, cond) + cond.tensors["number"][:, None]

    def decode(self, x1):
        return self.inner.decode(x1)


@pytest.mark.parametrize("dynamics", [ODE(), SDE()])
@pytest.mark.parametrize("pool", ["own", "shared"])
@pytest.mark.parametrize(
    ("samples", "cap", "batches"),
    [(1, 1 << 20, [7]), (1, 3, [3, 3, 1]), (2, 7, [6, 6, 2]), (3, 2, [3] * 7)],
)
def test_candidates_fill_batches_and_are_the_same_as_one_by_one(
    dynamics, pool, samples, cap, batches
):
    model, reward = plane()
    mode = BestOfN(n=7, flow_steps=2, dynamics=dynamics, pool=pool)
    streams, runs = Streams(0, tuple(range(4, 4 + samples))), []
    for most in (cap, 1):
        watched = Watched(model, [])
        problem = Problem(
            watched, reward, cond=watched.encode(["0.0", "0.1", "0.2"][:samples]), chunks=most
        )
        state, infos = mode.init(problem, streams), []
        for index in range(mode.steps):
            state, info = mode.step(problem, state, index, streams)
            infos.append(info.numbers)
        assert not state.ahead
        runs.append((mode.finish(problem, state), state.reward, infos, watched.seen))
    (x1, r, infos, seen), (same_x1, same_r, same_infos, single) = runs
    assert seen[:: mode.flow_steps] == batches
    assert single == [samples] * 7 * mode.flow_steps
    assert torch.allclose(x1, same_x1, atol=1e-12)
    assert torch.allclose(r, same_r, atol=1e-12)
    for numbers, others in zip(infos, same_infos, strict=True):
        assert numbers == pytest.approx(others, abs=1e-12)
