"""The coefficient of each dynamics, against the flow of the tilted mixture itself."""

import pytest
import torch

from align.core.model import NoisyState
from align.core.path import LinearPath
from align.core.problem import Problem
from align.core.streams import Streams
from align.estimators.exact import Exact
from align.models.isotropic import Isotropic
from align.models.mixture import GaussianMixture
from align.modes.sampling import dynamics as law
from align.testing.worlds import line

PATHS = ("linear", "trigonometric")


def _tilted(model):
    """The flow to p*: on the line, a component times e^r is again isotropic."""
    prior = model.prior
    variances = 1 / (1 / prior.variances + 1 / 0.36)
    means = variances[..., None] * (prior.means / prior.variances[..., None] + 1 / 0.36)
    spread = prior.variances + 0.36
    tilts = -0.5 * (prior.means[..., 0] - 1) ** 2 / spread + 0.5 * torch.log(0.36 / spread)
    weights = torch.log_softmax(prior.log_weights + tilts, -1)
    return GaussianMixture(Isotropic(weights, means, variances), model.path, model.axes)


def _world(kind):
    model, reward = line(kind)
    times = torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)
    t, x = torch.meshgrid(times, torch.linspace(-3, 3, 21, dtype=torch.float64), indexing="ij")
    noisy = NoisyState(x.flatten()[:, None], t.flatten(), model.encode([""] * t.numel()))
    return model, _tilted(model), reward, noisy


@pytest.mark.parametrize("kind", PATHS)
def test_value_is_the_log_ratio_of_the_marginals(kind):
    model, tilted, reward, noisy = _world(kind)
    ratio = tilted.log_prob(noisy.x, noisy.t) - model.log_prob(noisy.x, noisy.t)
    constant = model.value(noisy, reward) - ratio
    assert float(constant.max() - constant.min()) < 1e-12


@pytest.mark.parametrize("kind", PATHS)
def test_ode_guidance_is_what_the_tilted_flow_adds(kind):
    model, tilted, reward, noisy = _world(kind)
    added = tilted.velocity(noisy.x, noisy.t, noisy.cond) - model.velocity(
        noisy.x, noisy.t, noisy.cond
    )
    shift = Exact().estimate(Problem(model, reward), noisy, streams=Streams(0, ())).shift
    guided = law.guidance(model.path, shift, noisy.t, "ode", 1e9)
    assert float((guided - added).abs().max()) < 1e-9
    h = 1e-5
    up, down = (model.value(NoisyState(noisy.x + d, noisy.t, noisy.cond), reward) for d in (h, -h))
    slope = (model.path.half_variance(noisy.t) * (up - down) / (2 * h))[:, None]
    assert float((slope - added).abs().max()) < 1e-8


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("clamp", [1e9, 0.5])
def test_sde_drift_is_that_of_the_tilted_flow(kind, clamp):
    model, tilted, reward, noisy = _world(kind)
    path, t = model.path, noisy.t
    shift = Exact().estimate(Problem(model, reward), noisy, streams=Streams(0, ())).shift
    velocity = model.velocity(noisy.x, t, noisy.cond)
    drift = law.base_drift(path, velocity, noisy.x, t, "sde", clamp)
    got = drift + law.guidance(path, shift, t, "sde", clamp)
    # The clamp is on the noise alone: the velocity of p* plus (σ_c²/2) times its score.
    star = tilted.velocity(noisy.x, t, noisy.cond)
    score = path.score_from_velocity(star, noisy.x, t)
    want = star + law.clamped_half_variance(path, t, clamp)[:, None] * score
    assert float((got - want).abs().max()) < 1e-9
    if clamp == 1e9:
        memoryless = star + path.half_variance(t)[:, None] * score
        assert float((got - memoryless).abs().max()) < 1e-9


def test_linear_path_sde_drift_is_the_one_of_the_paper():
    model, _, _, noisy = _world("linear")
    velocity = model.velocity(noisy.x, noisy.t, noisy.cond)
    drift = law.base_drift(model.path, velocity, noisy.x, noisy.t, "sde", 1e9)
    assert torch.allclose(drift, 2 * velocity - noisy.x / noisy.t[:, None], atol=1e-11)


def test_everything_is_finite_at_the_start():
    path, t, x = LinearPath(), torch.zeros(2), torch.ones(2, 3)
    assert law.clamped_half_variance(path, t, 25).tolist() == [25, 25]
    assert law.base_drift(path, x, x, t, "sde", 25).isfinite().all()
    for dynamics in ("ode", "sde"):
        assert torch.equal(law.guidance(path, x, t, dynamics, 25), x)
    assert not law.clamped(path, t, 25).any()


def test_limits_of_the_guidance():
    drift = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
    added = torch.tensor([[0.0, 10.0], [0.0, 1.0], [0.0, 0.0]])
    assert torch.equal(law.normalise_guidance(added, drift, "none", 2.0), 2 * added)
    clipped = law.normalise_guidance(added, drift, "clip", 1.0)
    assert torch.allclose(clipped, torch.tensor([[0.0, 5.0], [0.0, 1.0], [0.0, 0.0]]))
    renormed = law.normalise_guidance(added, drift, "renorm", 2.0)
    assert torch.allclose(renormed, torch.tensor([[0.0, 10.0], [0.0, 10.0], [0.0, 0.0]]))


def test_grid():
    assert law.grid(4, 0.2, 1.0) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert law.grid(2, 0.0, 2.0) == [0.0, 0.25, 1.0]


def test_step_adds_noise_of_the_right_size():
    path, x = LinearPath(), torch.zeros(2, 1, dtype=torch.float64)
    t, u = torch.full((2,), 0.2).double(), torch.full((2,), 0.25).double()
    one = torch.ones_like(x)
    mean, push, std = law.transition(path, one, 3 * one, x, t, u, "sde", 25)
    assert torch.allclose(mean, 0.05 * one)
    assert torch.allclose(push, 0.15 * one)
    assert torch.allclose(std**2, torch.full((2,), 2 * 4 * 0.05).double())  # 2 (1 − t)/t dt
    assert not law.transition(path, one, one, x, t, u, "ode", 25)[2].any()


def test_published_clamp_of_the_guidance():
    t = torch.tensor([0.01, 0.5]).double()
    assert torch.allclose(law.clamped(LinearPath(), t, 25), torch.tensor([25 / 99, 1]).double())


@pytest.mark.parametrize("kind", PATHS)
def test_ddim_is_the_flow_itself(kind):
    model, tilted, _, noisy = _world(kind)
    path, base = model.path, model.velocity(noisy.x, noisy.t, noisy.cond)
    star = tilted.velocity(noisy.x, noisy.t, noisy.cond)
    here, push, std = law.transition(path, base, star - base, noisy.x, noisy.t, noisy.t, "ddim", 25)
    assert torch.allclose(here + push, noisy.x, atol=1e-12)
    h = 1e-6
    mean, push, std = law.transition(
        path, base, star - base, noisy.x, noisy.t, noisy.t + h, "ddim", 25
    )
    assert torch.allclose((mean - noisy.x) / h, base, atol=1e-4)
    assert torch.allclose(push / h, star - base, atol=1e-4)
    assert not std.any()


@pytest.mark.parametrize("kind", PATHS)
def test_small_ddpm_steps_are_those_of_the_sde(kind):
    model, tilted, _, noisy = _world(kind)
    path, t, h = model.path, noisy.t, 1e-6
    base, star = (m.velocity(noisy.x, t, noisy.cond) for m in (model, tilted))
    mean, push, std = law.transition(path, base, star - base, noisy.x, t, t + h, "ddpm", 25)
    drift = law.base_drift(path, base, noisy.x, t, "sde", 1e9)
    assert torch.allclose((mean - noisy.x) / h, drift, atol=1e-3)
    assert torch.allclose(push / h, 2 * (star - base), atol=1e-3)
    assert torch.allclose(std**2 / h, 2 * path.half_variance(t), rtol=1e-3)


@pytest.mark.parametrize("kind", PATHS)
def test_ddpm_is_the_exact_transition_for_a_point(kind):
    # x' given x and x1 in the memoryless process: noise at u is part of that at t, and fresh.
    path = line(kind)[0].path
    t, u = torch.tensor([0.3]).double(), torch.tensor([0.5]).double()
    x, x1 = torch.tensor([[0.7]]).double(), torch.tensor([[1.3]]).double()
    velocity = path.velocity_from_denoiser(x1, x, t)
    mean, _, std = law.transition(path, velocity, 0 * x, x, t, u, "ddpm", 25)
    # Cov(x_t, x_u | x1) = (β_t/β_u) α_u²: x_t/β_t is x_u/β_u with independent noise on top.
    gain = path.beta(t) / path.beta(u) * path.alpha(u) ** 2 / path.alpha(t) ** 2
    want = path.beta(u) * x1 + gain * (x - path.beta(t) * x1)
    left = path.alpha(u) ** 2 - gain**2 * path.alpha(t) ** 2
    assert torch.allclose(mean, want)
    assert torch.allclose(std**2, left)


def test_renoising_forgets_the_state():
    model, _, _, noisy = _world("linear")
    base, u = model.velocity(noisy.x, noisy.t, noisy.cond), noisy.t + 0.05
    mean, push, std = law.transition(model.path, base, base, noisy.x, noisy.t, u, "renoise", 25)
    clean = model.denoiser(noisy)
    assert torch.allclose(mean, u[:, None] * clean)
    assert torch.allclose(push, u[:, None] * (1 - noisy.t)[:, None] * base)
    assert torch.allclose(std, 1 - u)
    end = law.transition(
        model.path, base, 0 * base, noisy.x, noisy.t, torch.ones_like(u), "renoise", 25
    )
    assert torch.allclose(end[0], clean)
    assert not end[2].any()
