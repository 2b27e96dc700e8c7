"""The coefficient of each dynamics, against the flow of the tilted mixture itself."""

import math

import pytest
import torch

from align.core.dynamics import FlowEvaluation, GaussianStep, GuidedFlow
from align.core.model import NoisyState
from align.core.path import PATHS as NAMED
from align.core.path import LinearPath, Path, expand
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.clamp import clamped_half_variance, guidance_clamp
from align.dynamics.ddim import DDIM
from align.dynamics.ddpm import DDPM
from align.dynamics.ode import ODE
from align.dynamics.renoise import Renoise
from align.dynamics.sde import SDE
from align.estimators.exact import Exact
from align.models.isotropic import Isotropic
from align.models.mixture import GaussianMixture
from align.testing.worlds import line

PATHS = ("linear", "trigonometric")


def tilted_model(model):
    """The flow to p*: on the line, a component times e^r is again isotropic."""
    prior = model.prior
    variances = 1 / (1 / prior.variances + 1 / 0.36)
    means = variances[..., None] * (prior.means / prior.variances[..., None] + 1 / 0.36)
    spread = prior.variances + 0.36
    tilts = -0.5 * (prior.means[..., 0] - 1) ** 2 / spread + 0.5 * torch.log(0.36 / spread)
    weights = torch.log_softmax(prior.log_weights + tilts, -1)
    return GaussianMixture(Isotropic(weights, means, variances), model.path, model.axes)


def world_of(kind):
    """The mixture, its tilted law as a model, the reward, and states at four times."""
    model, reward = line(kind)
    times = torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)
    t, x = torch.meshgrid(times, torch.linspace(-3, 3, 21, dtype=torch.float64), indexing="ij")
    noisy = NoisyState(x.flatten()[:, None], t.flatten(), model.encode([""] * t.numel()))
    return model, tilted_model(model), reward, noisy


def velocities(noisy, *models):
    return [model.velocity(noisy.x, noisy.t, noisy.cond) for model in models]


def flow_of(path, velocity, shift):
    """A flow that has this velocity and this shift everywhere."""
    return GuidedFlow(path, lambda x, t: FlowEvaluation(velocity, shift))


def step(dynamics, noisy, path, velocity, shift, width):
    streams = Streams(0, tuple(range(len(noisy.x))))
    flow = flow_of(path, velocity, shift)
    return dynamics.step(flow, noisy.x, noisy.t, noisy.t + width, streams)


def shift_between(path, noisy, base, star):
    """D* − D from two velocities."""
    return (star - base) / expand(path.denoiser_to_velocity(noisy.t), base)


@pytest.mark.parametrize("kind", PATHS)
def test_value_is_the_log_ratio_of_the_marginals(kind):
    model, tilted, reward, noisy = world_of(kind)
    ratio = tilted.log_prob(noisy.x, noisy.t) - model.log_prob(noisy.x, noisy.t)
    constant = model.value(noisy, reward) - ratio
    assert float(constant.max() - constant.min()) < 1e-12


@pytest.mark.parametrize("kind", PATHS)
def test_ode_with_the_exact_shift_follows_the_tilted_flow(kind):
    model, tilted, reward, noisy = world_of(kind)
    shift = Exact().estimate(Problem(model, reward), noisy, streams=Streams(0, ())).shift
    base, star = velocities(noisy, model, tilted)
    x = step(ODE(), noisy, model.path, base, shift, 0.1).x
    assert float(((x - noisy.x) / 0.1 - star).abs().max()) < 1e-9


@pytest.mark.parametrize("kind", PATHS)
def test_ode_guidance_is_half_the_variance_times_the_gradient_of_the_value(kind):
    model, tilted, reward, noisy = world_of(kind)
    base, star = velocities(noisy, model, tilted)
    h = 1e-5
    up, down = (model.value(NoisyState(noisy.x + d, noisy.t, noisy.cond), reward) for d in (h, -h))
    slope = (model.path.half_variance(noisy.t) * (up - down) / (2 * h))[:, None]
    assert float((slope - (star - base)).abs().max()) < 1e-8


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("clamp", [1e9, 0.5])
def test_sde_drift_with_the_exact_shift_is_that_of_the_tilted_flow(kind, clamp):
    model, tilted, reward, noisy = world_of(kind)
    path, t = model.path, noisy.t
    shift = Exact().estimate(Problem(model, reward), noisy, streams=Streams(0, ())).shift
    base, star = velocities(noisy, model, tilted)
    gaussian = step(SDE(clamp=clamp), noisy, path, base, shift, 0.01).gaussian
    drift = (gaussian.mean + gaussian.push - noisy.x) / 0.01
    # The clamp is on the noise alone: the velocity of p* plus (σ_c²/2) times its score.
    score = path.score_from_velocity(star, noisy.x, t)
    wanted = star + clamped_half_variance(path, t, clamp)[:, None] * score
    assert float((drift - wanted).abs().max()) < 1e-9
    if clamp == 1e9:
        memoryless = star + path.half_variance(t)[:, None] * score
        assert float((drift - memoryless).abs().max()) < 1e-9


def test_sde_on_the_linear_path_has_the_drift_of_the_paper():
    model, _, _, noisy = world_of("linear")
    (velocity,) = velocities(noisy, model)
    shift = torch.zeros_like(velocity)
    gaussian = step(SDE(clamp=1e9), noisy, model.path, velocity, shift, 0.01).gaussian
    drift = (gaussian.mean - noisy.x) / 0.01
    assert torch.allclose(drift, 2 * velocity - noisy.x / noisy.t[:, None], atol=1e-10)


def test_clamps_are_finite_at_the_start():
    path, t = LinearPath(), torch.zeros(2)
    assert clamped_half_variance(path, t, 25).tolist() == [25, 25]
    assert not guidance_clamp(path, t, 25).any()


@pytest.mark.parametrize("dynamics", [ODE(), SDE()])
def test_guidance_at_the_start_is_the_shift(dynamics):
    path, t, x = LinearPath(), torch.zeros(2), torch.ones(2, 3)
    flow = flow_of(path, x, x)
    guided = dynamics.step(flow, x, t, t + 0.1, Streams(0, (0, 1))).x
    plain = dynamics.step(flow_of(path, x, 0 * x), x, t, t + 0.1, Streams(0, (0, 1))).x
    assert torch.allclose(guided - plain, 0.1 * x)


def test_sde_step_has_mean_push_and_std_of_euler():
    path, x = LinearPath(), torch.zeros(2, 1, dtype=torch.float64)
    t, u = torch.full((2,), 0.2).double(), torch.full((2,), 0.25).double()
    one = torch.ones_like(x)
    # At t = .2 the score adds to a velocity b of 1: b + (σ²/2) s = 2 b − x/t.
    flow = flow_of(path, one, one)
    gaussian = SDE().step(flow, x, t, u, Streams(0, (0, 1))).gaussian
    assert torch.allclose(gaussian.mean, 0.05 * 2 * one)
    assert torch.allclose(gaussian.push, 0.05 * 2 * one / 0.8)
    assert torch.allclose(gaussian.std**2, torch.full((2,), 2 * 4 * 0.05).double())


@pytest.mark.parametrize("dynamics", [ODE, SDE])
def test_published_clamp_multiplies_the_guidance(dynamics):
    path, x = LinearPath(), torch.ones(2, 1).double()
    t = torch.tensor([0.01, 0.5]).double()
    share = torch.tensor([25 / 99, 1]).double()
    assert torch.allclose(guidance_clamp(path, t, 25), share)
    steps = [
        dynamics(clamp_guidance=clamped).step(flow, x, t, t + 0.1, Streams(0, (0, 1))).x
        for clamped, flow in (
            (False, flow_of(path, x, 0 * x)),
            (False, flow_of(path, x, x)),
            (True, flow_of(path, x, x)),
        )
    ]
    plain, whole, clamped = steps
    assert torch.allclose(clamped - plain, share[:, None] * (whole - plain))


@pytest.mark.parametrize("kind", PATHS)
def test_short_ddim_steps_are_those_of_the_flow(kind):
    model, tilted, _, noisy = world_of(kind)
    path, (base, star) = model.path, velocities(noisy, model, tilted)
    shift, h = shift_between(path, noisy, base, star), 1e-6
    assert torch.allclose(step(DDIM(), noisy, path, base, shift, 0.0).x, noisy.x, atol=1e-12)
    x = step(DDIM(), noisy, path, base, shift, h).x
    assert torch.allclose((x - noisy.x) / h, star, atol=1e-4)


def test_ddim_on_the_linear_path_is_the_ode():
    model, tilted, _, noisy = world_of("linear")
    path, (base, star) = model.path, velocities(noisy, model, tilted)
    shift = shift_between(path, noisy, base, star)
    ddim, ode = (step(part, noisy, path, base, shift, 0.05).x for part in (DDIM(), ODE()))
    assert torch.allclose(ddim, ode, atol=1e-12)


@pytest.mark.parametrize("kind", PATHS)
def test_short_ddpm_steps_are_those_of_the_sde(kind):
    model, tilted, _, noisy = world_of(kind)
    path, h = model.path, 1e-6
    base, star = velocities(noisy, model, tilted)
    shift = shift_between(path, noisy, base, star)
    ddpm, sde = (
        step(part, noisy, path, base, shift, h).gaussian for part in (DDPM(), SDE(clamp=1e9))
    )
    assert torch.allclose((ddpm.mean - noisy.x) / h, (sde.mean - noisy.x) / h, atol=1e-3)
    assert torch.allclose(ddpm.push / h, sde.push / h, atol=1e-3)
    assert torch.allclose(ddpm.std**2 / h, sde.std**2 / h, rtol=1e-3)


@pytest.mark.parametrize("kind", PATHS)
def test_ddpm_is_the_exact_transition_for_a_posterior_that_is_a_point(kind):
    # x' given x and x1 in the memoryless process: noise at u is part of that at t, and fresh.
    path = line(kind)[0].path
    t, u = torch.tensor([0.3]).double(), torch.tensor([0.5]).double()
    x, x1 = torch.tensor([[0.7]]).double(), torch.tensor([[1.3]]).double()
    flow = flow_of(path, path.velocity_from_denoiser(x1, x, t), 0 * x)
    gaussian = DDPM().step(flow, x, t, u, Streams(0, (0,))).gaussian
    # Cov(x_t, x_u | x1) = (β_t/β_u) α_u²: x_t/β_t is x_u/β_u with independent noise on top.
    gain = path.beta(t) / path.beta(u) * path.alpha(u) ** 2 / path.alpha(t) ** 2
    mean = path.beta(u) * x1 + gain * (x - path.beta(t) * x1)
    variance = path.alpha(u) ** 2 - gain**2 * path.alpha(t) ** 2
    assert torch.allclose(gaussian.mean, mean)
    assert torch.allclose(gaussian.std**2, variance)


class Rounded(Path):
    """The trigonometric path in a form that leaves 6e-17 of the noise at t = 1."""

    def alpha(self, t):
        return torch.cos(math.pi / 2 * t)

    def beta(self, t):
        return torch.sin(math.pi / 2 * t)

    def alpha_rate(self, t):
        return -math.pi / 2 * self.beta(t)

    def beta_rate(self, t):
        return math.pi / 2 * self.alpha(t)

    def time_at(self, ratio):
        return 2 / math.pi * torch.atan(1 / ratio.sqrt())


@pytest.mark.parametrize("path", [*NAMED.values(), Rounded()], ids=lambda path: repr(path)[:20])
@pytest.mark.parametrize("dynamics", [DDPM(), DDIM(), Renoise()], ids=lambda part: part.kind)
def test_a_step_by_way_of_clean_states_ends_without_noise(path, dynamics):
    t, u = torch.tensor([0.4, 0.9]).double(), torch.ones(2).double()
    x, denoiser = torch.tensor([[0.3], [0.7]]).double(), torch.tensor([[1.1], [0.6]]).double()
    shift = torch.full_like(x, 0.25)
    flow = flow_of(path, path.velocity_from_denoiser(denoiser, x, t), shift)
    taken = dynamics.step(flow, x, t, u, Streams(0, (0, 1)))
    guided = denoiser if dynamics.has_density else denoiser + shift
    assert torch.allclose(taken.x, guided, rtol=0, atol=1e-14)
    if dynamics.has_density:
        gaussian = taken.gaussian
        assert (
            gaussian.std.tolist() == gaussian.kl.tolist() == gaussian.log_ratio.tolist() == [0, 0]
        )
        assert torch.equal(gaussian.x, taken.x)


def test_rows_with_noise_are_pushed_beside_rows_without():
    mean, push = torch.zeros(2, 1).double(), torch.ones(2, 1).double()
    std, noise = torch.tensor([0.5, 0.0]).double(), torch.full((2, 1), 2.0).double()
    gaussian = GaussianStep(mean, push, std, noise)
    assert gaussian.x.flatten().tolist() == [2.0, 0.0]
    assert gaussian.kl.tolist() == [2.0, 0.0]
    assert gaussian.log_ratio.tolist() == [-6.0, 0.0]


def test_renoising_forgets_all_but_the_denoiser():
    model, _, _, noisy = world_of("linear")
    (base,) = velocities(noisy, model)
    streams = Streams(0, tuple(range(len(noisy.x))))
    flow = flow_of(model.path, base, torch.ones_like(base))
    u = noisy.t + 0.05
    x = Renoise().step(flow, noisy.x, noisy.t, u, streams).x
    noise = streams.normal((1,))
    wanted = u[:, None] * (model.denoiser(noisy) + 1) + (1 - u)[:, None] * noise
    assert torch.allclose(x, wanted)
    end = Renoise().step(flow, noisy.x, noisy.t, torch.ones_like(u), streams).x
    assert torch.allclose(end, model.denoiser(noisy) + 1)


def test_sde_without_a_clamp_has_the_noise_of_the_path():
    model, _, _, noisy = world_of("linear")
    (base,) = velocities(noisy, model)
    gaussian = step(SDE(clamp=math.inf), noisy, model.path, base, 0 * base, 0.01).gaussian
    assert torch.allclose(gaussian.std**2, 0.02 * model.path.half_variance(noisy.t))
    assert not gaussian.push.any()
