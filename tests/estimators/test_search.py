"""The best draw as an estimate."""

import attrs
import pytest
import torch

from align.core.model import NoisyState
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.streams import Streams
from align.dynamics.renoise import Renoise
from align.estimators.search import Search
from align.estimators.stein import Stein
from align.modes.sampling.steer import Steer
from align.samplers.dps import DPS
from align.samplers.exact import ExactPosterior
from align.samplers.mfm import MetaFlowMap
from align.testing.worlds import line, plane, sampled


def states(world, rows, t=0.4, sampler=None, weight=1.0):
    model, reward = world
    reward = WeightedReward(tuple(attrs.evolve(one, weight=weight) for one in reward.terms))
    streams = Streams(2, tuple(range(rows)))
    t = torch.full((rows,), t, dtype=torch.float64)
    x = model.path.interpolate(streams.fold_in("x").normal(model.shape), model.draw(streams), t)
    cond = model.encode([""] * rows)
    return (
        Problem(model, reward, sampler or MetaFlowMap(), None, cond),
        NoisyState(x, t, cond),
        streams,
    )


def test_the_shift_leads_to_the_best_draw():
    problem, noisy, streams = states(plane(), 7)
    found = Search(draws=5).estimate(problem, noisy, streams=streams)
    x1 = MetaFlowMap().sample(problem.model, noisy, draws=5, streams=streams)
    reward = problem.reward_of(x1, noisy.cond)
    for row in range(7):
        best = int(reward[:, row].argmax())
        denoiser = problem.model.denoiser(noisy.rows(slice(row, row + 1)))[0]
        assert torch.allclose(found.shift[row], x1[best, row] - denoiser, atol=1e-12)
        assert torch.allclose(found.value[row], reward[best, row])
    assert len(set(reward.argmax(0).tolist())) > 1
    assert torch.allclose(found.denoiser, problem.model.denoiser(noisy), atol=1e-12)


def test_search_is_the_limit_of_a_large_reward_weight():
    weight = 1e5
    problem, noisy, streams = states(line(), 20, weight=weight)
    stein = Stein(draws=6, centring="velocity").estimate(problem, noisy, streams=streams)
    search = Search(draws=6).estimate(problem, noisy, streams=streams)
    assert torch.allclose(search.shift, stein.shift, atol=1e-10)
    assert torch.allclose(search.value / weight, stein.value / weight, atol=1e-4)
    plain, _, _ = states(line(), 20)
    assert torch.allclose(
        Search(draws=6).estimate(plain, noisy, streams=streams).shift, search.shift, atol=1e-12
    )


def test_the_error_is_about_the_maximum_s_deviation():
    problem, noisy, _ = states(line(), 6, sampler=ExactPosterior())
    many, streams = noisy.tile(2000), Streams(8, tuple(range(12000)))
    for draws in (4, 16):
        found = Search(draws=draws).estimate(problem, many, streams=streams)
        value, error = (part.unflatten(0, (2000, -1)) for part in (found.value, found.error))
        ratio = error.square().mean(0).sqrt() / value.std(0)
        assert (ratio > 0.5).all()
        assert (ratio < 2).all()


@pytest.mark.parametrize("draws", [1, 2])
def test_errors_of_few_draws(draws):
    problem, noisy, streams = states(line(), 4)
    found = Search(draws=draws).estimate(problem, noisy, streams=streams)
    assert found.error.isinf().all() if draws == 1 else found.error.isfinite().all()
    reward = problem.reward_of(
        MetaFlowMap().sample(problem.model, noisy, draws=2, streams=streams), noisy.cond
    )
    if draws == 2:  # the jackknife by hand
        assert torch.allclose(found.error, (reward[0] - reward[1]).abs() / 2)


def test_shift_of_a_point_posterior_is_zero():
    problem, noisy, streams = states(line(), 4, sampler=DPS())
    found = Search().estimate(problem, noisy, streams=streams)
    assert not found.shift.any()
    assert not found.error.any()
    assert torch.allclose(
        found.value, problem.reward_of(problem.model.denoiser(noisy)[None], noisy.cond)[0]
    )


def test_renoising_the_best_draw_climbs_the_reward():
    mode, (model, reward) = Steer(steps=20, dynamics=Renoise()), line()
    x1 = sampled(mode, (model, reward), 300, sampler=MetaFlowMap(), estimator=Search(draws=4))
    tilted = model.draw_tilted(reward, Streams(1, tuple(range(300))))
    climbed, drawn = (reward.total(one, [""] * 300).mean() for one in (x1, tilted))
    assert climbed > 0.5 * drawn  # rewards are negative


def test_search_with_renoising_takes_the_step_of_algorithm_4():
    model, reward = line()
    streams, t, u = Streams(0, tuple(range(9))), 0.3, 0.7
    cond = model.encode([""] * 9)
    mode = Steer(times=(t, u, 1.0), dynamics=Renoise(), steps=2)
    problem = Problem(model, reward, MetaFlowMap(), Search(draws=4), cond)
    state = mode.init(problem, streams)
    noisy = NoisyState(state.x, torch.full((9,), t, dtype=torch.float64), cond)
    moved, _ = mode.step(problem, state, 0, streams)
    x1 = MetaFlowMap().sample(model, noisy, draws=4, streams=streams.fold_in("estimate", 0))
    best = x1[problem.reward_of(x1, cond).argmax(0), torch.arange(9)]
    noise = streams.fold_in("step", 0).normal(model.shape)
    assert torch.allclose(moved.x, u * best + (1 - u) * noise, atol=1e-10)
