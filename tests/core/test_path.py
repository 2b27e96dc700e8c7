"""Every conversion of a path, against a mixture whose velocity, denoiser and score are known."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from align.core.errors import PartError
from align.core.model import NoisyState
from align.core.path import PATHS, LinearPath, Path, TrigonometricPath, expand, path_name, times_of
from align.testing.worlds import line


def _grid(model):
    times = torch.tensor([0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95], dtype=torch.float64)
    t, x = torch.meshgrid(times, torch.linspace(-4, 4, 41, dtype=torch.float64), indexing="ij")
    t, x = t.flatten(), x.flatten()[:, None]
    return NoisyState(x, t, model.encode([""] * len(t)))


def _near(a, b, tolerance):
    assert float(((a - b).abs() / (1 + b.abs())).max()) <= tolerance


@pytest.mark.parametrize("kind", PATHS)
def test_conversions_agree(kind):
    model, _ = line(kind)
    path, noisy = model.path, _grid(model)
    x, t = noisy.x.clone().requires_grad_(), noisy.t
    (score,) = torch.autograd.grad(model.log_prob(x, t).sum(), x)
    x = x.detach()
    velocity, denoiser = model.velocity(x, t, noisy.cond), model.denoiser(noisy)
    _near(path.velocity_from_denoiser(denoiser, x, t), velocity, 2e-12)
    _near(path.denoiser_from_velocity(velocity, x, t), denoiser, 2e-12)
    _near(path.score_from_denoiser(denoiser, x, t), score, 2e-12)
    _near(path.denoiser_from_score(score, x, t), denoiser, 2e-12)
    _near(path.score_from_velocity(velocity, x, t), score, 2e-12)
    _near(path.velocity_from_score(score, x, t), velocity, 2e-12)
    noise = path.noise_from_denoiser(denoiser, x, t)
    _near(path.interpolate(noise, denoiser, t), x, 2e-12)
    _near(path.rate(noise, denoiser, t), velocity, 2e-12)


@pytest.mark.parametrize("kind", PATHS)
def test_score_is_the_slope_of_the_log_density(kind):
    model, _ = line(kind)
    noisy, h = _grid(model), 1e-5
    slope = (model.log_prob(noisy.x + h, noisy.t) - model.log_prob(noisy.x - h, noisy.t)) / (2 * h)
    velocity = model.velocity(noisy.x, noisy.t, noisy.cond)
    _near(model.path.score_from_velocity(velocity, noisy.x, noisy.t)[:, 0], slope, 1e-8)


@pytest.mark.parametrize("kind", PATHS)
def test_denoiser_by_quadrature(kind):
    model, _ = line(kind)
    t = torch.tensor([0.4], dtype=torch.float64)
    alpha, beta, x = float(model.path.alpha(t)), float(model.path.beta(t)), 0.7

    def joint(x1):
        prior = sum(
            w * stats.norm.pdf(x1, m, s)
            for w, m, s in ((0.3, -2, 0.4), (0.45, 0.5, 0.7), (0.25, 2.5, 0.3))
        )
        return prior * stats.norm.pdf(x, beta * x1, alpha)

    mass = integrate.quad(joint, -8, 8, limit=200, epsabs=1e-13)[0]
    first = integrate.quad(lambda x1: x1 * joint(x1), -8, 8, limit=200, epsabs=1e-13)[0]
    noisy = NoisyState(torch.tensor([[x]], dtype=torch.float64), t, model.encode([""]))
    assert float(model.denoiser(noisy)) == pytest.approx(first / mass, abs=1e-10)
    assert float(model.log_prob(noisy.x, t)) == pytest.approx(np.log(mass), abs=1e-10)


@pytest.mark.parametrize("path", PATHS.values())
def test_path_ends_rates_and_inverse(path):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert torch.allclose(path.alpha(ends), 1 - ends, atol=1e-15)
    assert torch.allclose(path.beta(ends), ends, atol=1e-15)
    t, h = torch.linspace(0.01, 0.99, 50, dtype=torch.float64), 1e-6
    _near((path.alpha(t + h) - path.alpha(t - h)) / (2 * h), path.alpha_rate(t), 1e-9)
    _near((path.beta(t + h) - path.beta(t - h)) / (2 * h), path.beta_rate(t), 1e-9)
    _near(path.time_at((path.alpha(t) / path.beta(t)) ** 2), t, 1e-14)
    # (σ²/2) ∇V = c_t (α²/β) ∇V, so the two ways to write guidance agree.
    _near(
        path.denoiser_to_velocity(t) * path.alpha(t) ** 2 / path.beta(t),
        path.half_variance(t),
        1e-13,
    )


def test_linear_path_is_the_one_of_the_paper():
    path, t = LinearPath(), torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    _near(path.half_variance(t), (1 - t) / t, 1e-14)
    _near(path.denoiser_to_velocity(t), 1 / (1 - t), 1e-14)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_no_noise_is_left_at_the_end_of_a_path(path, dtype):
    assert path.alpha(torch.ones(1, dtype=dtype)).tolist() == [0.0]


def test_the_noise_of_the_trigonometric_path_is_precise_near_its_end():
    left = torch.tensor([1e-3, 1e-9, 1e-15], dtype=torch.float64)
    left = 1 - (1 - left)  # what float64 has there
    found = TrigonometricPath().alpha(1 - left)
    assert torch.allclose(found, torch.sin(np.pi / 2 * left), rtol=1e-14, atol=0)


def test_times_of_coarse_states_do_not_round_to_one():
    for dtype, wanted in (
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        x = torch.zeros(3, 2, dtype=dtype)
        for time in (0.999, torch.full((3,), 0.999, dtype=torch.float64)):
            times = times_of(x, time)
            assert times.dtype == wanted
            assert times.shape == (3,)
            assert (times < 1).all()
            assert float(times[0]) == pytest.approx(0.999, rel=1e-7)


def test_coefficients_of_times_leave_states_their_type():
    t = torch.full((3,), 0.999, dtype=torch.float32)
    x = torch.ones(3, 2, dtype=torch.bfloat16)
    for path in PATHS.values():
        for result in (
            path.interpolate(x, x, t),
            path.rate(x, x, t),
            path.denoiser_from_velocity(x, x, t),
            path.velocity_from_denoiser(x, x, t),
            path.score_from_velocity(x, x, t),
            path.noise_from_denoiser(x, x, t),
        ):
            assert result.dtype == torch.bfloat16
            assert result.isfinite().all()
    assert expand(t > 0, x).dtype == torch.bool


def test_a_path_without_a_name_is_named():
    class Other(Path):
        alpha = beta = alpha_rate = beta_rate = time_at = lambda self, t: t

    assert [path_name(path) for path in PATHS.values()] == list(PATHS)
    assert isinstance(Other(), Path)
    with pytest.raises(PartError, match="no weights file can name its path, Other"):
        path_name(Other())
