"""Draws in chunks, on demand, and with errors that can be believed."""

import attrs
import pytest
import torch

from align.core.checks import read
from align.core.chunks import Chunks
from align.core.draws import Draws, make_draws, variance, weighted_mean
from align.core.errors import PartError
from align.core.estimate import known
from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.reward import Reward, Term, WeightedReward
from align.core.sampler import PosteriorSampler
from align.core.streams import Streams
from align.engine.guard import GuardedModel, GuardedReward
from align.engine.memory import DeviceMemory
from align.engine.meter import Meter
from align.estimators.blend import Blend
from align.estimators.gradient import Gradient, gradient_of
from align.estimators.search import Search
from align.estimators.stein import Stein
from align.samplers.dps import DPS
from align.samplers.exact import ExactPosterior
from align.samplers.mfm import MetaFlowMap
from align.testing.worlds import line, plane

FIELDS = ("value", "error", "shift", "ess", "reward", "draws")
EACH = [
    Gradient(draws="auto"),
    Stein(draws="auto"),
    Stein(draws="auto", centring="unbiased"),
    Stein(draws="auto", centring="velocity"),
    Stein(draws="auto", centring="regression"),
    Search(draws="auto"),
    Blend(draws="auto"),
    Blend(draws="auto", rule="variance"),
    Blend(draws="auto", rule="time"),
]


def states(world, rows, t=0.5, sampler=None, chunk=1 << 20):
    model, reward = world
    streams = Streams(3, tuple(range(rows)))
    t = torch.full((rows,), t, dtype=torch.float64)
    x = model.path.interpolate(streams.fold_in("x").normal(model.shape), model.draw(streams), t)
    cond = model.encode([""] * rows)
    problem = Problem(model, reward, sampler or MetaFlowMap(), None, cond, chunk)
    return problem, NoisyState(x, t, cond), streams


def make(problem, noisy, streams, draws=5, budget=32, gradient=True):
    return make_draws(
        problem, noisy, draws=draws, budget=budget, gradient=gradient, streams=streams
    )


def same(one, other):
    for name in ("x1", "rewards", "counts"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12), name
    if one.reward_grads is not None:
        assert (
            float(
                (one.reward_grads - other.reward_grads).abs().max() / other.reward_grads.abs().max()
            )
            < 1e-12
        )


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("draws", [5, "auto"])
def test_chunks_change_nothing(draws, gradient):
    whole = make(*states(line(), 6), draws=draws, gradient=gradient)
    assert (whole.reward_grads is not None) == gradient
    for chunk in (1, 3, 7, 30):
        same(make(*states(line(), 6, chunk=chunk), draws=draws, gradient=gradient), whole)


@attrs.frozen(kw_only=True)
class Recording(PosteriorSampler):
    """The exact map, which writes down how many rows it saw with a graph."""

    kind = "recording"
    differentiable = True
    exact_for = "mixtures"
    needs = None
    seen = attrs.field(factory=list)

    def sample(self, model, noisy, *, draws, streams):
        if torch.is_grad_enabled():
            self.seen.append(draws * len(noisy.x))
        return MetaFlowMap().sample(model, noisy, draws=draws, streams=streams)


@attrs.frozen
class RecordingReward(Reward):
    """A reward that does the same."""

    inner: Reward
    seen: list = attrs.field(factory=list)

    def score(self, data, prompts):
        if data.requires_grad:
            self.seen.append(len(data))
        return self.inner.score(data, prompts)


@pytest.mark.parametrize("chunk", [1, 3, 7, 12])
def test_a_gradient_s_graph_holds_at_most_a_chunk(chunk):
    model, reward = line()
    sampler, scorer = Recording(), RecordingReward(reward.terms[0].reward)
    world = model, WeightedReward((Term(name="one", reward=scorer),))
    make(*states(world, 5, sampler=sampler, chunk=chunk), draws=6)
    for seen in (sampler.seen, scorer.seen):
        assert sum(seen) == 30
        assert max(seen) <= chunk
        assert max(seen) > chunk // 3  # and is not needlessly small


class Backward(torch.autograd.Function):
    """The identity, for whose way back memory is short of more than `most` rows."""

    @staticmethod
    def forward(ctx, x, most):
        ctx.most = most
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if len(grad) > ctx.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return grad, None


@attrs.frozen
class Short(Reward):
    """A reward for which memory is short: of its own, or of its way back."""

    inner: Reward
    most: int
    back: bool
    seen: list = attrs.field(factory=list)

    def score(self, data, prompts):
        self.seen.append(len(data))
        if self.back:
            data = Backward.apply(data, self.most)
        elif len(data) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner.score(data, prompts)


@attrs.frozen(kw_only=True)
class ShortSampler(PosteriorSampler):
    """The exact map, whose own arithmetic needs too much memory for more than three rows."""

    kind = "short"
    differentiable = True
    exact_for = "mixtures"
    needs = None

    def sample(self, model, noisy, *, draws, streams):
        if draws * len(noisy.x) > 3:
            raise RuntimeError("CUDA error: out of memory")
        return MetaFlowMap().sample(model, noisy, draws=draws, streams=streams)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("draws", [5, "auto"])
def test_a_graph_that_memory_is_too_small_for_is_made_of_fewer_rows(draws, back):
    model, reward = line()
    whole = make(*states((model, reward), 6), draws=draws)
    inner = Short(reward.terms[0].reward, 4, back)
    short = WeightedReward((Term(name="one", reward=GuardedReward(inner, "one", Meter(), 99)),))
    problem, noisy, streams = states((model, short), 6, chunk=16)
    same(make(problem, noisy, streams, draws=draws), whole)
    assert problem.chunks.rows == {"gradient of the reward": 4}
    assert inner.seen[:3] == [16, 8, 4]


def test_a_sampler_that_memory_is_too_small_for_has_fewer_rows():
    problem, noisy, streams = states(line(), 6, sampler=ShortSampler(), chunk=8)
    same(make(problem, noisy, streams), make(*states(line(), 6)))
    assert problem.chunks.rows == {"gradient of the reward": 2}


def test_one_row_of_a_graph_that_is_too_much_says_what_to_change():
    model, reward = line()
    inner = Short(reward.terms[0].reward, 0, back=True)
    short = WeightedReward((Term(name="one", reward=inner),))
    with pytest.raises(
        PartError,
        match=r"^gradient of the reward: the device's memory is too small for a single row; ",
    ):
        make(*states((model, short), 2))


def test_rows_of_a_graph_are_those_that_fit_with_all_that_it_keeps():
    taken = []

    class Room:
        def free(self):
            return 5 * taken[0] / 0.75

        def taken(self, call):
            taken.append(DeviceMemory(torch.device("cpu")).taken(call))
            return taken[-1]

    model, reward = line()
    sampler, meter = Recording(), Meter()
    problem, noisy, streams = states((model, reward), 5, sampler=sampler)
    guarded = GuardedModel(model, "line", meter, Chunks(64, Room()))
    problem = attrs.evolve(problem, model=guarded, chunks=guarded.chunks)
    same(make(problem, noisy, streams, draws=6), make(*states((model, reward), 5), draws=6))
    assert sampler.seen[:2] == [1, 2]
    assert max(sampler.seen) == problem.chunks.rows["gradient of the reward"] == 4
    assert meter.calls == {"network": 30, "decoder": 30}
    assert meter.backward == {"network": 30, "decoder": 30}


def test_draws_are_the_sampler_s():
    problem, noisy, streams = states(plane(), 4)
    found = make(problem, noisy, streams)
    x1 = MetaFlowMap().sample(problem.model, noisy, draws=5, streams=streams)
    assert torch.allclose(found.x1, x1, atol=1e-12)
    assert torch.allclose(found.rewards, problem.reward_of(x1, noisy.cond), atol=1e-11)
    assert found.counts.tolist() == [5] * 4
    assert not found.x1.requires_grad
    assert not found.reward_grads.requires_grad


def test_weighted_reward_gradients_are_the_gradient_of_the_value():
    problem, noisy, streams = states(plane(), 6)
    x = noisy.x.clone().requires_grad_()
    x1 = MetaFlowMap().sample(
        problem.model, NoisyState(x, noisy.t, noisy.cond), draws=5, streams=streams
    )
    value = torch.logsumexp(problem.reward_of(x1, noisy.cond), 0)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    found = gradient_of(make(problem, noisy, streams))
    assert float((found - gradient).abs().max() / gradient.abs().max()) < 1e-14


def expected_counts(rewards, budget, first=4):
    """How many of a state's draws 'auto' takes, one state at a time."""
    counts = []
    for one in rewards.T:
        count = first
        while count < budget and 1 / torch.softmax(one[:count], 0).square().sum() < 3:
            count = min(2 * count, budget)
        counts.append(count)
    return counts


@pytest.mark.parametrize("budget", [4, 10, 32])
def test_more_draws_where_few_carry_the_weight(budget):
    where = states(line(), 24)
    many = make(*where, draws=32)
    found = make(*where, draws="auto", budget=budget)
    assert found.counts.tolist() == expected_counts(many.rewards, budget)
    assert len(found.x1) == found.counts.max() == budget
    if budget == 32:
        assert len(set(found.counts.tolist())) == 4
    for row, count in enumerate(found.counts.tolist()):
        for part in ("x1", "rewards", "reward_grads"):
            full, some = getattr(many, part)[:, row], getattr(found, part)[:, row]
            assert torch.allclose(some[:count], full[:count], rtol=1e-11, atol=1e-11), part
        assert (found.rewards[count:, row] == -torch.inf).all()
        assert not found.reward_grads[count:, row].any()


def test_auto_scores_each_draw_once():
    model, reward = line()
    scorer = RecordingReward(reward.terms[0].reward)
    world = model, WeightedReward((Term(name="one", reward=scorer),))
    found = make(*states(world, 24), draws="auto")
    assert sum(scorer.seen) == int(found.counts.sum()) < 24 * 32


@pytest.mark.parametrize("estimator", EACH, ids=repr)
def test_auto_is_a_fixed_number_for_each_state(estimator):
    problem, noisy, streams = states(line(), 16)
    found = estimator.estimate(problem, noisy, streams=streams)
    counts = sorted(set(found.draws.tolist()))
    assert len(counts) > 2
    for count in counts:
        rows = torch.nonzero(found.draws == count)[:, 0]
        fixed = attrs.evolve(estimator, draws=count).estimate(
            problem, noisy.rows(rows), streams=streams.rows(rows)
        )
        for name in FIELDS:
            some, other = getattr(found, name)[rows], getattr(fixed, name)
            assert torch.allclose(some, other, rtol=1e-10, atol=1e-11), name


@pytest.mark.parametrize("draws", [5, "auto"])
def test_a_point_is_drawn_once(draws):
    problem, noisy, streams = states(line(), 3, sampler=DPS())
    found = make(problem, noisy, streams, draws=draws)
    assert found.point
    assert found.counts.tolist() == [1, 1, 1]
    estimate = found.estimate(noisy.x)
    assert estimate.error.tolist() == [0, 0, 0]
    assert torch.allclose(estimate.denoiser, problem.model.denoiser(noisy))


def test_error_of_one_draw_is_infinite():
    estimate = make(*states(line(), 3), draws=1).estimate(torch.zeros(3, 1))
    assert estimate.error.isinf().all()
    assert "error" not in known(read(estimate.means()))


@pytest.mark.parametrize("t", [0.1, 0.9])
@pytest.mark.parametrize("draws", [16, 64])
def test_errors_are_standard_deviations(draws, t):
    problem, noisy, streams = states(line(), 12, t, ExactPosterior())
    repeats = 600
    streams = Streams(4, tuple(range(12 * repeats)))
    found = make(problem, noisy.tile(repeats), streams, draws=draws, gradient=False)
    estimate = found.estimate(noisy.x)
    value, error = (part.unflatten(0, (repeats, -1)) for part in (estimate.value, estimate.error))
    ratio = (error.mean(0) / value.std(0)).median()
    assert 0.85 < ratio < 1.1
    # e^V̂ is unbiased at any number of draws, V̂ is too low by half its squared error.
    gap = value - problem.model.value(noisy, problem.reward)
    grown = gap.exp()
    noise = grown.std(0).square().sum().sqrt() / 12 / repeats**0.5
    assert abs(grown.mean() - 1) < 4 * noise < 0.02
    assert gap.mean() < 0


def test_weighted_variance_of_known_terms():
    streams = Streams(0, tuple(range(4)))
    terms = streams.normal((2, 3), draws=6)
    equal = torch.full((6, 4), 1 / 6).double()
    assert torch.allclose(variance(terms, equal), terms.var(0).flatten(1).sum(1))
    assert torch.allclose(weighted_mean(terms, equal), terms.mean(0))
    # Two draws of weight ½ are two draws, whatever else has weight 0.
    two = torch.zeros(6, 4).double()
    two[1] = two[4] = 0.5
    assert torch.allclose(variance(terms, two), terms[[1, 4]].var(0).flatten(1).sum(1))
    alone = torch.zeros(6, 4).double()
    alone[2] = 1
    assert not variance(terms, alone).any()


def test_missing_draws_do_not_count():
    rewards = torch.tensor([[0.0, 0.0], [0.0, 0.0], [-torch.inf, 0.0]])
    counts = torch.tensor([2, 3])
    draws = Draws(torch.ones(3, 2, 1), rewards, None, counts, False)
    assert torch.allclose(draws.equal[:, 0], torch.tensor([0.5, 0.5, 0]))
    estimate = draws.estimate(torch.zeros(2, 1))
    assert torch.allclose(estimate.value, torch.zeros(2), atol=1e-6)
    assert torch.allclose(estimate.ess, torch.tensor([2.0, 3.0]))


def test_missing_sampler_and_wrong_numbers_of_draws_are_refused():
    problem, noisy, streams = states(line(), 2)
    with pytest.raises(PartError, match="needs a sampler"):
        make(attrs.evolve(problem, sampler=None), noisy, streams)
    with pytest.raises(ValueError, match="'draws' must be at least 1 or 'auto', got 0"):
        Stein(draws=0)
    with pytest.raises(ValueError, match="'budget' must be at least 4, got 3"):
        Search(budget=3)
