"""The mixture's closed forms against quadrature, weighted draws and finite differences."""

import math

import pytest
import torch
from scipy import integrate, stats

from align.core.errors import PartError, PromptError
from align.core.model import NoisyState
from align.core.reward import Reward, Term, WeightedReward
from align.core.streams import Streams
from align.models.isotropic import Isotropic
from align.models.mixture import GaussianMixture, Mixture
from align.testing.distances import w1
from align.testing.worlds import line, measured, plane


def _at(model, x, t):
    x = torch.as_tensor(x, dtype=torch.float64)
    return NoisyState(
        x, torch.full((len(x),), float(t), dtype=torch.float64), model.encode([""] * len(x))
    )


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
@pytest.mark.parametrize("t", [0.0, 1e-9, 0.5, 1 - 1e-9, 1.0])
def test_everything_is_finite_at_both_ends(kind, t):
    model, reward = line(kind)
    noisy = _at(model, [[-1.0], [0.3], [2.0]], t)
    x = noisy.x.clone().requires_grad_()
    noisy = NoisyState(x, noisy.t, noisy.cond)
    zero, one = torch.zeros_like(noisy.t), torch.ones_like(noisy.t)
    y = Streams(0, (0, 1, 2)).normal((1,))
    parts = (
        model.velocity(x, noisy.t, noisy.cond),
        model.denoiser(noisy),
        model.value(noisy, reward),
        model.draw_posterior(noisy, 2, Streams(0, (0, 1, 2))),
        model.posterior_jump(y, zero, one, noisy),
    )
    for part in parts:
        assert part.isfinite().all()
        (gradient,) = torch.autograd.grad(part.sum(), x)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("other", range(6))
def test_parts_states_and_times_of_any_float_type_make_the_same_velocity(other):
    """Numbers that float32 has too, so that nothing but rounding on the way could change them."""
    path, types = line()[0].path, [torch.float64] * 6
    types[other] = torch.float32
    logits, means, variances, axes, x, t = (
        torch.tensor(numbers).to(kind)
        for numbers, kind in zip(
            (
                [[0.0, -0.5]],
                [[[-1.0, 0.5], [2.0, 0.25]]],
                [[0.5, 2.0]],
                [[1.0, 0.0], [0.0, 1.0]],
                [[0.75, -1.5], [3.0, 0.0]],
                [0.25, 0.5],
            ),
            types,
            strict=True,
        )
    )
    model = GaussianMixture(Isotropic(logits, means, variances), path, axes)
    found = model.velocity(x, t, model.encode([""] * 2))
    doubles = (part.double() for part in (logits, means, variances))
    exact = GaussianMixture(Isotropic(*doubles), path, axes.double())
    wanted = exact.velocity(x.double(), t.double(), model.encode([""] * 2))
    assert found.dtype == torch.float64
    assert torch.allclose(found, wanted, rtol=1e-12)


def test_velocity_at_the_ends():
    model, _ = line()
    mean = 0.3 * -2 + 0.45 * 0.5 + 0.25 * 2.5
    noisy = _at(model, [[0.7]], 0)
    assert float(model.velocity(noisy.x, noisy.t, noisy.cond)) == pytest.approx(mean - 0.7)
    noisy = _at(model, [[0.7]], 1)
    assert float(model.velocity(noisy.x, noisy.t, noisy.cond)) == pytest.approx(0.7)
    assert float(model.denoiser(noisy)) == pytest.approx(0.7)


def _pairs(std, kind):
    """Pairs of components that overlap, ten units from each other pair's."""
    means = [(10.0 * i, 10.0 * j + gap * std) for i in range(2) for j in range(2) for gap in (0, 2)]
    stds = [std * (1 + 0.1 * k) for k in range(8)]
    return Mixture(weights=(1, 2) * 4, means=means, stds=stds, path=kind).build(torch.device("cpu"))


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
@pytest.mark.parametrize("std", [0.5, 0.02, 1e-4, 1e-7])
@pytest.mark.parametrize("t", [0.0, 1e-9, 0.3, 0.9, 1 - 1e-6, 1.0])
def test_velocity_and_denoiser_agree_with_differences_taken_one_by_one(kind, std, t):
    model = _pairs(std, kind)
    numbers = Streams(0, tuple(range(64)))
    noisy = _at(model, torch.zeros(64, 2), t)
    x = model.path.interpolate(numbers.normal((2,)), model.draw(numbers), noisy.t)
    noisy = NoisyState(x, noisy.t, noisy.cond)
    alpha, beta = (f(noisy.t)[:, None] for f in (model.path.alpha, model.path.beta))
    spread = alpha**2 + beta**2 * model.prior.variances
    gap = x[:, None] - beta[..., None] * model.prior.means
    logits = model.prior.log_weights - 0.5 * (gap.square().sum(-1) / spread + 2 * spread.log())
    shares = torch.softmax(logits, -1)[..., None]
    noise = (shares * (alpha / spread)[..., None] * gap).sum(1)
    clean = alpha**2 / spread, beta * model.prior.variances / spread
    clean = clean[0][..., None] * model.prior.means + clean[1][..., None] * x[:, None]
    clean = (shares * clean).sum(1)
    rates = (f(noisy.t)[:, None] for f in (model.path.alpha_rate, model.path.beta_rate))
    velocity = sum(rate * end for rate, end in zip(rates, (noise, clean), strict=True))
    # Rounding of the states themselves, and a wrong share of two components that overlap.
    bound = 1e-14 + 1e-9 * std
    assert (model.denoiser(noisy) - clean).abs().max() < bound
    bound *= 1 + float(alpha[0, 0] / spread.min())
    assert (model.velocity(x, noisy.t, noisy.cond) - velocity).abs().max() < bound


@pytest.mark.parametrize("t", [0.2, 0.6])
def test_value_by_quadrature(t):
    model, reward = line()
    x = 0.4

    def joint(x1, power):
        prior = sum(
            w * stats.norm.pdf(x1, m, s)
            for w, m, s in ((0.3, -2, 0.4), (0.45, 0.5, 0.7), (0.25, 2.5, 0.3))
        )
        seen = prior * stats.norm.pdf(x, t * x1, 1 - t)
        return seen * math.exp(-power * (x1 - 1) ** 2 / (2 * 0.36))

    masses = [
        integrate.quad(joint, -8, 8, args=(power,), limit=200, epsabs=1e-13)[0] for power in (0, 1)
    ]
    value = float(model.value(_at(model, [[x]], t), reward))
    assert value == pytest.approx(math.log(masses[1] / masses[0]), abs=1e-9)


def test_value_and_tilted_law_in_three_dimensions_by_weighted_draws():
    model = Mixture(
        weights=(1, 2), means=((0, 1, -1), (1, -1, 0.5)), stds=(0.6, 1.1), path="trigonometric"
    ).build(torch.device("cpu"))
    first = measured(((1.0, 0.5, 0.0), (0.0, 1.0, -1.0)), (0.5, 0.2), 1.0).terms[0]
    second = measured(((0.3, 0.0, 1.0),), (1.0,), 0.7).terms[0]
    bystander = measured(((5.0, 0.0, 0.0),), (9.0,), 0.1).terms[0]
    reward = WeightedReward(
        (
            Term(name="a", reward=first.reward, weight=0.7),
            Term(name="b", reward=second.reward),
            Term(name="c", reward=bystander.reward, held_out=True),
        )
    )
    noisy = _at(model, [[0.2, -0.4, 0.9]], 0.4)
    count = 400_000
    draws = model.draw_posterior(noisy, count, Streams(0, (0,)))[:, 0]
    weights = reward.total(draws, [""] * count).exp()
    error = float(weights.std() / weights.mean()) / count**0.5
    value = float(model.value(noisy, reward))
    assert abs(float(weights.mean().log()) - value) < 5 * error
    many = Streams(1, tuple(range(200_000)))
    prior, tilted = model.draw(many), model.draw_tilted(reward, many)
    weights = torch.softmax(reward.total(prior, [""] * len(prior)), 0)[:, None]
    mean = (weights * prior).sum(0)
    assert torch.allclose(tilted.mean(0), mean, atol=0.015)
    moved, spread = prior - mean, tilted - tilted.mean(0)
    assert torch.allclose(spread.T @ spread / len(prior), (weights * moved).T @ moved, atol=0.02)


def test_value_slope_by_finite_differences():
    model, reward = plane()
    noisy = _at(model, [[0.3, -0.8], [1.0, 2.0]], 0.45)
    x = noisy.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        model.value(NoisyState(x, noisy.t, noisy.cond), reward).sum(), x
    )
    for d in range(2):
        h = torch.zeros(2, dtype=torch.float64)
        h[d] = 1e-5
        up, down = (
            model.value(NoisyState(noisy.x + s * h, noisy.t, noisy.cond), reward) for s in (1, -1)
        )
        assert torch.allclose(gradient[:, d], (up - down) / 2e-5, atol=1e-7)


def test_posterior_draws_have_the_posterior_s_moments():
    model, _ = line()
    noisy = _at(model, [[0.3]], 0.3)
    law = model.posterior(noisy)
    draws = model.draw_posterior(noisy, 200_000, Streams(0, (0,))).flatten()
    mean = float(law.mean())
    weights = law.log_weights.exp()
    variance = float((weights * (law.variances + law.means[..., 0] ** 2)).sum()) - mean**2
    assert abs(float(draws.mean()) - mean) < 5 * (variance / len(draws)) ** 0.5
    assert float(draws.var()) == pytest.approx(variance, rel=0.02)


def test_population_is_the_prior():
    model, _ = line()
    x = model.draw(Streams(0, tuple(range(50_000))))[:, 0]
    edges = torch.linspace(-3, 3, 7, dtype=torch.float64)
    for edge in edges:
        below = sum(
            w * stats.norm.cdf(float(edge), m, s)
            for w, m, s in ((0.3, -2, 0.4), (0.45, 0.5, 0.7), (0.25, 2.5, 0.3))
        )
        assert abs(float((x < edge).double().mean()) - below) < 5 * 0.5 / len(x) ** 0.5


def test_joint_draws_follow_the_posterior_of_their_state():
    model, _ = line()
    streams = Streams(4, tuple(range(20_000)))
    t = torch.full((20_000,), 0.35, dtype=torch.float64)
    x1 = model.draw(streams)
    x = model.path.interpolate(streams.fold_in("noise").normal((1,)), x1, t)
    again = model.draw_posterior(NoisyState(x, t, model.encode([""] * 20_000)), 1, streams)[0]
    assert w1(x1[:, 0], again[:, 0]) < 0.05


def test_wrong_mixture_is_refused():
    good = {"weights": (1, 1), "means": ((0.0, 0.0), (1.0, 1.0)), "stds": (1.0, 1.0)}
    for key, value in {
        "weights": (1, -1),
        "means": ((0.0,), (1.0, 1.0)),
        "stds": (1.0,),
        "axes": ((1.0, 0.0), (1.0, 0.0)),
    }.items():
        with pytest.raises(ValueError, match=f"'{key}'"):
            Mixture(**{**good, key: value})
    model = Mixture(**good).build(torch.device("cpu"))
    with pytest.raises(PromptError):
        model.encode(["a cat"])
    noisy = _at(model, [[0.0, 0.0]], 0.5)

    class Odd(Reward):
        def score(self, data, prompts):
            return data.sum(-1)

    with pytest.raises(PartError, match="quadratic"):
        model.value(noisy, WeightedReward((Term(name="odd", reward=Odd()),)))
    term = measured(((1.0, 0.0),), (0.0,), 0.5).terms[0]
    with pytest.raises(PartError, match="outgrows"):
        model.value(noisy, WeightedReward((Term(name="up", reward=term.reward, weight=-1.0),)))


def test_sensible_negative_weights_are_fine():
    model, _ = line()
    term = measured(((1.0,),), (0.0,), 2.0).terms[0]
    reward = WeightedReward((Term(name="spread", reward=term.reward, weight=-1.0),))
    noisy = _at(model, [[0.2]], 0.3)
    draws = model.draw_posterior(noisy, 100_000, Streams(0, (0,)))[:, 0]
    estimate = reward.total(draws, [""] * len(draws)).exp().mean().log()
    assert float(model.value(noisy, reward)) == pytest.approx(float(estimate), abs=0.02)


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_jump_on_the_line_is_the_flow(kind):
    model, _ = line(kind)
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]
    s, cond = torch.full((13,), 0.15, dtype=torch.float64), model.encode([""] * 13)
    u, y, steps = s + 0.8, x, 800
    for k in range(steps):
        now = s + 0.8 * (k + 0.5) / steps
        # Midpoint rule: within 1e-6 at this step.
        half = y + 0.4 / steps * model.velocity(y, now - 0.4 / steps, cond)
        y = y + 0.8 / steps * model.velocity(half, now, cond)
    assert torch.allclose(model.jump(x, s, u, cond), y, rtol=0, atol=3e-6)


def test_jumps_keep_the_laws_and_add_up():
    model, _ = plane()
    count = 8000
    streams, cond = Streams(3, tuple(range(count))), model.encode([""] * count)
    zero, s, u, one = torch.tensor([0, 0.3, 0.8, 1], dtype=torch.float64)[:, None].expand(4, count)
    noise = streams.normal((2,))
    x = model.jump(noise, zero, s, cond)
    x1 = model.jump(noise, zero, one, cond)
    assert torch.allclose(model.jump(x, s, s, cond), x, atol=1e-9)
    on = model.jump(model.jump(x, s, u, cond), u, one, cond)
    assert torch.allclose(on, x1, atol=1e-7)
    assert torch.allclose(model.jump(x, s, zero, cond), noise, atol=1e-7)
    exact = model.draw(streams)
    for direction in torch.tensor([[1, 0], [0, 1], [0.8, -0.6]], dtype=torch.float64):
        assert w1(x1 @ direction, exact @ direction) < 0.1  # two sets of exact draws: 0.01 to 0.06
