"""Gradient and weighted mean on the same draws."""

import attrs
import pytest
import torch

from align.core.draws import make_draws
from align.core.model import NoisyState
from align.core.path import LinearPath, TrigonometricPath
from align.core.problem import Problem
from align.core.streams import Streams
from align.estimators.blend import Blend, odds_by_time, odds_by_variance
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.models.mixture import GaussianMixture
from align.samplers.dps import DPS
from align.samplers.glass import Glass
from align.samplers.mfm import MetaFlowMap
from align.testing.worlds import line, plane

RULES = ["both", "variance", "time"]


def states(world, rows, t, sampler=None):
    model, reward = world
    streams = Streams(2, tuple(range(rows)))
    t = torch.full((rows,), float(t), dtype=torch.float64)
    x = model.path.interpolate(streams.fold_in("x").normal(model.shape), model.draw(streams), t)
    cond = model.encode([""] * rows)
    return (
        Problem(model, reward, sampler or MetaFlowMap(), None, cond),
        NoisyState(x, t, cond),
        streams,
    )


@pytest.mark.parametrize("t", [0.3, 0.7])
@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_weight_of_the_gradient_follows_the_rule(kind, t):
    """λ by hand, from the draws and their gradients."""
    problem, noisy, streams = states(line(kind), 10, t)
    path = problem.model.path
    a, b = float(path.alpha(noisy.t)[0]), float(path.beta(noisy.t)[0])
    found = make_draws(problem, noisy, draws=5, budget=32, gradient=True, streams=streams)
    steep = Gradient(draws=5).estimate(problem, noisy, streams=streams).shift
    mean = Stein(draws=5, centring="regression").estimate(problem, noisy, streams=streams).shift
    by_variance = found.x1.var(0) / (a * a / b * found.reward_grads).var(0)
    by_time = torch.full_like(by_variance, 0.4 * b * b / (a * a))
    odds = {"variance": by_variance, "time": by_time, "both": (by_variance * by_time).sqrt()}
    for rule in RULES:
        blend = Blend(draws=5, rule=rule).estimate(problem, noisy, streams=streams)
        share = odds[rule] / (1 + odds[rule])
        assert 1e-4 < share.min() <= share.max() < 0.9999
        assert torch.allclose(blend.shift, share * steep + (1 - share) * mean, atol=1e-11)
        assert torch.allclose(blend.denoiser, problem.model.denoiser(noisy), atol=1e-11)


def test_variances_are_summed_over_the_elements():
    problem, noisy, streams = states(plane(), 6, 0.6)
    found = make_draws(problem, noisy, draws=7, budget=32, gradient=True, streams=streams)
    odds = odds_by_variance(problem.model.path, found, noisy.t)
    scale = 0.4**2 / 0.6
    wanted = found.x1.var(0).sum(1) / (scale * found.reward_grads).var(0).sum(1)
    assert torch.allclose(odds, wanted.log())


def test_odds_by_time_depend_on_the_noise_level_alone():
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    for path in (LinearPath(), TrigonometricPath()):
        share = odds_by_time(path, t).sigmoid()
        assert torch.allclose(share, torch.tensor([0, 0.4 / 1.4, 1]).double())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("sampler", [MetaFlowMap(), DPS()], ids=lambda s: s.kind)
def test_estimates_are_finite(rule, t, sampler):
    problem, noisy, streams = states(plane(), 5, t, sampler)
    found = Blend(draws=4, rule=rule).estimate(problem, noisy, streams=streams)
    assert found.shift.isfinite().all()
    assert not found.shift.requires_grad


@pytest.mark.parametrize("rule", RULES)
def test_weight_of_the_gradient_at_time_zero_is_zero(rule):
    problem, noisy, streams = states(line(), 8, 0.0)
    found = Blend(draws=6, rule=rule).estimate(problem, noisy, streams=streams)
    mean = Stein(draws=6, centring="regression").estimate(problem, noisy, streams=streams)
    assert torch.allclose(found.shift, mean.shift, atol=1e-12)
    assert mean.shift.abs().min() > 0.01


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("draws, sampler", [(1, MetaFlowMap()), (4, DPS()), (4, Glass(steps=1))])
def test_weight_of_the_gradient_follows_time_where_draws_have_no_variance(rule, draws, sampler):
    problem, noisy, streams = states(line(), 5, 0.6, sampler)
    found = Blend(draws=draws, rule=rule).estimate(problem, noisy, streams=streams)
    steep = Gradient(draws=draws).estimate(problem, noisy, streams=streams)
    odds = 0.4 * (0.6 / 0.4) ** 2
    assert torch.allclose(found.shift, odds / (1 + odds) * steep.shift, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("t", [0.2, 0.6, 0.9])
def test_blend_with_many_draws_is_the_exact_shift(rule, t):
    problem, noisy, streams = states(line(), 10, t)
    found = Blend(draws=6000, rule=rule).estimate(problem, noisy, streams=streams)
    exact = Exact().estimate(problem, noisy, streams=streams)
    error = (found.shift - exact.shift).square().mean().sqrt()
    assert error < 0.08 * exact.shift.square().mean().sqrt()


@pytest.mark.parametrize("t", [0.3, 0.5, 0.7])
def test_error_of_the_blend_is_below_those_of_gradient_and_stein(t):
    problem, noisy, _ = states(line(), 60, t)
    many, streams = noisy.tile(20), Streams(6, tuple(range(1200)))
    exact = Exact().estimate(problem, noisy, streams=streams).shift.repeat(20, 1)

    def error(estimator):
        shift = estimator.estimate(problem, many, streams=streams).shift
        return float((shift - exact).square().mean())

    parents = [error(Gradient(draws=8)), error(Stein(draws=8, centring="regression"))]
    assert error(Blend(draws=8)) < 0.9 * min(parents)


def test_regression_goes_between_the_centres():
    problem, noisy, streams = states(line(), 40, 0.2)
    shifts = {
        kind: Stein(draws=6, centring=kind).estimate(problem, noisy, streams=streams)
        for kind in ("mean", "velocity", "unbiased", "regression")
    }
    mean, velocity, unbiased, found = (one.shift for one in shifts.values())
    share = (found - unbiased) / (velocity - mean)
    x1 = MetaFlowMap().sample(problem.model, noisy, draws=6, streams=streams)
    w = torch.softmax(problem.reward_of(x1, noisy.cond), 0)[..., None]
    weighted = (w * (x1 - (w * x1).sum(0)) ** 2).sum(0) / (1 - (w * w).sum(0))
    assert torch.allclose(share, (1 - weighted / x1.var(0)).clamp(min=0), atol=1e-9)
    assert (share == 0).any()
    assert share.max() > 0.5


def test_regression_shift_without_a_reward_is_zero():
    problem, noisy, streams = states(line(), 5, 0.4)
    terms = tuple(attrs.evolve(one, weight=0.0) for one in problem.reward.terms)
    problem = attrs.evolve(problem, reward=attrs.evolve(problem.reward, terms=terms))
    found = Stein(draws=4, centring="regression").estimate(problem, noisy, streams=streams)
    assert found.shift.abs().max() < 1e-12


def test_regression_saves_noise_where_few_draws_count():
    """Early on the line, where the first centre is the noisier, and late, where the second is."""
    for t, kind in ((0.2, "unbiased"), (0.9, "velocity")):
        problem, noisy, _ = states(line(), 40, t)
        many, streams = noisy.tile(50), Streams(6, tuple(range(2000)))
        noise = []
        for centring in (kind, "regression"):
            estimator = Stein(draws=16, centring=centring)
            shift = estimator.estimate(problem, many, streams=streams).shift
            noise.append(float(shift.unflatten(0, (50, -1)).var(0).mean()))
        assert noise[1] < 0.6 * noise[0]


def test_steering_makes_no_network_call_where_the_estimate_has_the_denoiser(monkeypatch):
    problem, noisy, streams = states(line(), 3, 0.5)
    calls, velocity = [], GaussianMixture.velocity
    monkeypatch.setattr(
        GaussianMixture, "velocity", lambda *a: calls.append(len(a[1])) or velocity(*a)
    )
    found = Blend(draws=4).estimate(problem, noisy, streams=streams)
    assert calls == [3]
    assert found.denoiser is not None
    problem = attrs.evolve(problem, sampler=DPS())
    Blend(draws=4).estimate(problem, noisy, streams=streams)
    assert calls == [3, 3]  # the point's own call
