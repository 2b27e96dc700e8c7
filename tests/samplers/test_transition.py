"""Transitions by an early stop of the inner flow, against the kernel of the mixture."""

import math

import pytest
import torch

from align.core.model import NoisyState
from align.core.streams import Streams
from align.samplers.glass import Glass, InnerFlow
from align.samplers.transition import glass_transition, stopping_time
from align.testing.distances import w1
from align.testing.worlds import line, plane

PATHS = ("linear", "trigonometric")


def _times(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def transition(model, noisy, u, **options):
    return glass_transition(InnerFlow.of(model, noisy), u, **options)


def _kernel(model, x, t, u):
    """p(x_u | x_t): x_t is x_u scaled by β_t / β_u, with the noise that is missing."""
    path = model.path
    scale = path.beta(t) / path.beta(u)
    noise = (path.alpha(t) ** 2 - (scale * path.alpha(u)) ** 2).sqrt()
    return model.prior.noised(path.alpha(u), path.beta(u)).posterior(x, noise, scale)


@pytest.mark.parametrize("kind", PATHS)
def test_stopping_time_adds_the_missing_precision(kind):
    path = line(kind)[0].path
    t, u = (
        v.flatten()
        for v in torch.meshgrid(_times(0.05, 0.4, 0.9), _times(0.05, 0.5, 0.99, 1), indexing="ij")
    )
    t, u = t[u > t], u[u > t]
    r = stopping_time(path, t, u)
    told = path.beta(r) ** 2 / path.alpha(r) ** 2 + path.beta(t) ** 2 / path.alpha(t) ** 2
    assert torch.allclose(path.time_at(1 / told), u, atol=1e-12)
    assert (r <= u).all()
    assert stopping_time(path, _times(0, 0, 0.3), _times(0.2, 1, 1)).tolist() == pytest.approx(
        [0.2, 1, 1], abs=1e-12
    )


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize(
    ("t", "u"), [(0.0, 0.4), (0.1, 0.2), (0.35, 0.6), (0.35, 1.0), (0.8, 0.95)]
)
def test_noise_becomes_the_same_quantile_of_the_kernel(kind, t, u):
    """On the line the transition rises with its noise: F(x_u) = Φ(ε), without sampling error."""
    model, _ = line(kind)
    noise = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]
    t, u = _times(t).expand(61), _times(u).expand(61)
    x = torch.full((61, 1), 0.4 * float(t[0]) - 0.1, dtype=torch.float64)
    noisy = NoisyState(x, t, model.encode([""] * 61))
    found = transition(model, noisy, u, steps=100, method="heun", noise=noise)
    law = _kernel(model, x, t, u)
    reach = (found - law.means[..., 0]) / law.variances.sqrt()
    below = (law.log_weights.exp() * torch.special.ndtr(reach)).sum(-1)
    assert torch.allclose(below, torch.special.ndtr(noise[:, 0]), atol=3e-4)


@pytest.mark.parametrize("kind", PATHS)
def test_transitions_follow_the_kernel(kind):
    model, _ = line(kind)
    count = 20_000
    rows = Streams(0, tuple(range(count)))
    t, u = _times(0.35).expand(count), _times(0.6).expand(count)
    x = torch.full((count, 1), 0.1, dtype=torch.float64)
    noisy = NoisyState(x, t, model.encode([""] * count))
    found = transition(model, noisy, u, steps=20, method="heun", noise=rows.normal((1,)))[:, 0]
    exact = _kernel(model, x[:1], t[:1], u[:1]).draw(rows.rows(slice(0, 1)), count)[:, 0, 0]
    assert w1(found, exact) < 0.03  # two sets of exact draws: 0.006 to 0.014
    wrong = transition(model, noisy, u - 0.05, steps=20, method="heun", noise=rows.normal((1,)))
    assert w1(wrong[:, 0], exact) > 0.05


def test_transitions_in_the_plane_have_the_moments_of_the_kernel():
    model, _ = plane()
    count = 4000
    rows = Streams(1, tuple(range(count)))
    t, u = _times(0.4).expand(count), _times(0.7).expand(count)
    x = torch.tensor([[0.8, 0.1]], dtype=torch.float64).expand(count, 2)
    noisy = NoisyState(x, t, model.encode([""] * count))
    found = transition(model, noisy, u, steps=12, method="heun", noise=rows.normal((2,)))
    law = _kernel(model, x[:1], t[:1], u[:1])
    gap = law.means[0] - law.mean()
    weights = law.log_weights.exp()[0]
    covariance = torch.einsum("k,kd,ke->de", weights, gap, gap)
    covariance = covariance + (weights @ law.variances[0]) * torch.eye(2).double()
    bound = 4 * float(covariance.diagonal().max()) / math.sqrt(count)
    assert torch.allclose(found.mean(0), law.mean()[0], atol=bound)
    assert torch.allclose(found.T.cov(), covariance, atol=2 * bound)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_transition_to_time_one_is_a_posterior_draw(method):
    model, _ = line()
    streams = Streams(2, (5, 6))
    noisy = NoisyState(_times(0.3, -1)[:, None], _times(0.2, 0.6), model.encode([""] * 2))
    draw = Glass(steps=7, method=method).sample(model, noisy, draws=1, streams=streams)[0]
    noise = streams.fold_in("posterior").normal((1,))
    found = transition(model, noisy, _times(1, 1), steps=7, method=method, noise=noise)
    assert torch.allclose(found, draw, atol=1e-13)


def test_rows_have_their_own_times_and_keep_their_type():
    model, _ = line()
    x, t, u = torch.tensor([[0.2], [0.5]]), torch.tensor([0.0, 0.5]), torch.tensor([0.3, 0.7])
    noisy, noise = NoisyState(x, t, model.encode([""] * 2)), torch.tensor([[0.4], [-1.0]])
    both = transition(model, noisy, u, steps=5, method="euler", noise=noise)
    alone = transition(
        model, noisy.rows(slice(1, 2)), u[1:], steps=5, method="euler", noise=noise[1:]
    )
    assert both.shape == (2, 1)
    assert torch.allclose(both[1:], alone, atol=1e-6)
