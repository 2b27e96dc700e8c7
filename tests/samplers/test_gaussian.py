"""The Gaussian posterior against the moments of mixtures."""

import pytest
import torch

from align.core.model import NoisyState
from align.core.streams import Streams
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.models.mixture import Mixture
from align.samplers.gaussian import GaussianPosterior, posterior_moments
from align.testing.worlds import line, plane

CPU = torch.device("cpu")
PATHS = ("linear", "trigonometric")
EXACT = GaussianPosterior(covariance="exact")


def _at(model, x, *t):
    t = torch.tensor(t, dtype=torch.float64)
    x = torch.tensor(x, dtype=torch.float64).expand(len(t), *model.shape)
    return NoisyState(x, t, model.encode([""] * len(t)))


def _moments(law):
    """Mean (B, D) and covariance (B, D, D) of mixtures."""
    weights, gap = law.log_weights.exp(), law.means - law.mean()[:, None]
    spread = (weights * law.variances).sum(1)[:, None, None]
    apart = torch.einsum("bk,bkd,bke->bde", weights, gap, gap)
    return law.mean(), apart + spread * torch.eye(gap.shape[-1]).to(gap)


def _one(path, std=0.7):
    return Mixture(weights=(1,), means=((0.5, -1.0, 2.0),), stds=(std,), path=path).build(CPU)


@pytest.mark.parametrize("path", PATHS)
def test_covariance_of_three_components(path):
    model, _ = line(path)
    noisy = _at(model, [0.3], 0.01, 0.1, 0.35, 0.7, 0.95, 1.0)
    mean, covariance = posterior_moments(model, noisy)
    exact_mean, exact = _moments(model.posterior(noisy))
    assert torch.allclose(mean, exact_mean, atol=1e-12)
    assert torch.allclose(covariance, exact, atol=1e-11)
    assert float(covariance[2]) > 0.5


def test_covariance_in_the_plane():
    model, _ = plane()
    noisy = _at(model, [0.8, -0.1], 0.05, 0.35, 0.7)
    mean, covariance = posterior_moments(model, noisy)
    exact_mean, exact = _moments(model.posterior(noisy))
    assert torch.allclose(mean, exact_mean, atol=1e-12)
    assert torch.allclose(covariance, exact, atol=1e-11)
    assert float(exact[1, 0, 1]) > 0.5  # not a multiple of the identity


@pytest.mark.parametrize("path", PATHS)
def test_at_time_0_the_covariance_is_the_data_s(path):
    model, _ = line(path)
    noisy = _at(model, [-1.3], 0.0, 1e-12)
    mean, covariance = posterior_moments(model, noisy)
    exact_mean, exact = _moments(model.posterior(noisy))
    assert torch.allclose(mean, exact_mean, atol=1e-6)
    assert torch.allclose(covariance, exact, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_draws_of_gaussian_data_are_exact(path):
    """D + C^½ ε with the very noise of the streams."""
    model, streams = _one(path), Streams(0, (0, 1, 2, 3))
    noisy = _at(model, [0.4, 1.1, -0.2], 0.0, 0.3, 0.8, 0.99)
    noise = streams.fold_in("posterior").normal((3,), draws=5)
    law = model.posterior(noisy)
    expected = law.means[:, 0] + law.variances[:, :1].sqrt() * noise
    assert torch.allclose(EXACT.sample(model, noisy, draws=5, streams=streams), expected, atol=1e-6)
    isotropic = GaussianPosterior(data_std=0.7)
    found = isotropic.sample(model, noisy, draws=5, streams=streams)
    assert torch.allclose(found, expected, atol=1e-12)


def test_draws_have_the_covariance_of_the_plane():
    model, _ = plane()
    noisy, streams = _at(model, [0.8, -0.1], 0.35), Streams(1, (0,))
    draws = EXACT.sample(model, noisy, draws=20_000, streams=streams)[:, 0]
    noise = streams.fold_in("posterior").normal((2,), draws=20_000)[:, 0]
    mean, covariance = posterior_moments(model, noisy)
    root = torch.linalg.lstsq(noise, draws - mean).solution
    assert torch.allclose(root, root.T, atol=1e-12)
    assert torch.allclose(root @ root, covariance[0], atol=1e-12)
    assert torch.allclose(draws.T.cov(), covariance[0], atol=0.1)


def test_isotropic_variance_is_that_of_the_standard_choice():
    """r² = σ²/(1 + σ²) with σ = α/β for unit data."""
    model, streams = line()[0], Streams(0, (0, 1, 2))
    noisy = _at(model, [0.3], 0.0, 0.4, 1.0)
    draws = GaussianPosterior().sample(model, noisy, draws=2, streams=streams)
    noise = streams.fold_in("posterior").normal((1,), draws=2)
    ratio = (draws - model.denoiser(noisy)) / noise
    expected = torch.tensor([1, (1.5**2 / (1 + 1.5**2)) ** 0.5, 0], dtype=torch.float64)
    assert torch.allclose(ratio[..., 0], expected.expand(2, 3), atol=1e-12)


@pytest.mark.parametrize(
    "sampler", [EXACT, GaussianPosterior(data_std=0.7)], ids=lambda s: s.covariance
)
def test_gradient_goes_through_the_denoiser(sampler):
    """For Gaussian data it is the whole gradient, β v / (α² + β² v)."""
    model, streams = _one("linear"), Streams(0, (0, 1))
    noisy = _at(model, [0.4, 1.1, -0.2], 0.3, 0.8)
    x = noisy.x.clone().requires_grad_()
    draws = sampler.sample(model, NoisyState(x, noisy.t, noisy.cond), draws=4, streams=streams)
    (gradient,) = torch.autograd.grad(draws.sum(), x)
    gain = noisy.t * 0.49 / ((1 - noisy.t) ** 2 + noisy.t**2 * 0.49)
    assert torch.allclose(gradient, 4 * gain[:, None].expand(2, 3), atol=1e-12)
    with torch.no_grad():
        again = sampler.sample(model, NoisyState(x, noisy.t, noisy.cond), draws=4, streams=streams)
    assert not again.requires_grad
    assert torch.equal(again, draws)


def test_negative_eigenvalues_are_set_to_zero():
    """A network's Jacobian may have them: here the velocity pulls too hard along one axis."""
    model = _one("linear")

    class Bent(type(model).__bases__[0]):
        path, shape, domain, dtype, device = model.path, (3,), "vector", torch.float64, CPU

        def encode(self, prompts):
            return model.encode(prompts)

        def decode(self, x1):
            return x1

        def velocity(self, x, t, cond):
            # D = diag(0.3, −0.2, 0) x, sheared by an antisymmetric part.
            turn = torch.tensor([[0.3, 0.4, 0], [-0.4, -0.2, 0], [0, 0, 0]]).to(x)
            return (x @ turn.T - x) / (1 - t)[:, None]

    noisy, streams = _at(model, [1.0, 1.0, 1.0], 0.5), Streams(0, (0,))
    _, covariance = posterior_moments(Bent(), noisy)
    expected = 0.5 * torch.diag(torch.tensor([0.3, -0.2, 0.0], dtype=torch.float64))
    assert torch.allclose(covariance[0], expected, atol=1e-12)
    draws = EXACT.sample(Bent(), noisy, draws=50, streams=streams)
    noise = streams.fold_in("posterior").normal((3,), draws=50)
    away = draws - torch.tensor([0.7, -0.6, 0], dtype=torch.float64)
    expected = noise * torch.tensor([0.15**0.5, 0, 0], dtype=torch.float64)
    assert torch.allclose(away, expected, atol=1e-7)


def test_cost_is_one_call_and_a_backward_pass_an_element():
    model, meter = _one("linear"), Meter()
    noisy = _at(model, [0.4, 1.1, -0.2], 0.3, 0.8)
    guarded = GuardedModel(model, "mixture", meter, 8)
    EXACT.sample(guarded, noisy, draws=7, streams=Streams(0, (0, 1)))
    assert meter.calls == {"network": 2}
    assert meter.backward == {"network": 6}
