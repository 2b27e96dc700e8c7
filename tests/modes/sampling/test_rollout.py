"""The loop that all modes share, and the guide that they give it."""

import pytest
import torch

from align.core.dynamics import GaussianStep, Slope, normalise_guidance
from align.core.errors import DivergedError
from align.core.model import Scheduled
from align.core.path import PATHS
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.ddim import DDIM
from align.dynamics.ddpm import DDPM
from align.dynamics.glass import GlassTransition
from align.dynamics.heun import Heun
from align.dynamics.ode import ODE
from align.dynamics.renoise import Renoise
from align.dynamics.sde import SDE
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.models.mixture import GaussianMixture, Mixture
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.guide import Guide
from align.modes.sampling.rollout import (
    check_finite,
    flow,
    grid,
    log_snr,
    rollout,
    time_grid,
    transitions,
    unguided,
)
from align.modes.sampling.steer import Steer
from align.samplers.dps import DPS
from align.samplers.mfm import MetaFlowMap
from align.testing.worlds import line, plane, sampled

ALL = (ODE(), SDE(), DDPM(), DDIM(), Renoise(), Heun(), GlassTransition())
by_kind = pytest.mark.parametrize("dynamics", ALL, ids=lambda part: part.kind)

# Samples 0 and 1 of seed 0 after six steps, as they were before dynamics were parts.
PLAIN = {
    "ode": (-0.36026934792723403, 0.5421473223039001),
    "sde": (1.3606968624389564, -0.683183014095455),
    "ddpm": (1.6622550594208405, -0.0005802534772053058),
    "ddim": (-0.36026934792723453, 0.5421473223039002),
    "renoise": (1.1017532040253641, -0.1418513943296819),
}
GUIDED = {
    "ode": (0.6495515674931187, 0.879857849005243),
    "sde": (1.1393917782812824, 1.061654987617797),
    "ddpm": (0.9646517895403734, 0.6354272422726824),  # since its last step is not pushed
    "ddim": (0.6495515674931187, 0.879857849005243),
    "renoise": (0.815653394033491, 0.7305180675410746),
}
PARTICLES = {
    "sde": (1.3573669011519591, 0.3362131707462436),
    "ddpm": (2.09357013539985, 1.0506666492836738),
}


@pytest.mark.parametrize("dynamics", ALL[:5], ids=lambda part: part.kind)
def test_samples_of_a_seed_stay_the_same(dynamics):
    plain = sampled(BestOfN(flow_steps=6, dynamics=dynamics), line(), 2)
    assert plain.flatten().tolist() == pytest.approx(PLAIN[dynamics.kind], rel=1e-12)
    guided = sampled(Steer(steps=6, dynamics=dynamics), line(), 2, estimator=Exact())
    assert guided.flatten().tolist() == pytest.approx(GUIDED[dynamics.kind], rel=1e-12)


@pytest.mark.parametrize("dynamics", [SDE(), DDPM()], ids=lambda part: part.kind)
def test_particles_of_a_seed_stay_the_same(dynamics):
    mode = Steer(steps=6, dynamics=dynamics, particles=4, resample="systematic")
    x1 = sampled(mode, line(), 2, sampler=MetaFlowMap(), estimator=Gradient(draws=2))
    assert x1.flatten().tolist() == pytest.approx(PARTICLES[dynamics.kind], rel=1e-12)


def test_grid_runs_from_start_to_one():
    assert grid(4, 0.2, 1.0) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert grid(2, 0.0, 2.0) == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_log_snr_takes_equal_steps_in_the_logarithm_of_signal_over_noise(path):
    times = log_snr(path, 6, 0.02)
    assert (times[0], times[-2], times[-1]) == (0.02, pytest.approx(0.98), 1.0)
    inner = torch.tensor(times[:-1]).double()
    steps = torch.log(path.beta(inner) / path.alpha(inner)).diff()
    assert steps.tolist() == pytest.approx([float(steps[0])] * 5)
    assert log_snr(path, 1, 0.02) == [0.02, 1.0]


@pytest.mark.parametrize("path", PATHS)
def test_log_snr_makes_narrow_data_of_their_own_width_in_few_steps(path):
    # Two modes of deviation 0.05, 16 steps of the SDE: equal steps in t leave them twice as wide.
    model = Mixture(weights=(1.0, 1.0), means=((-1.0,), (1.0,)), stds=(0.05, 0.05), path=path)
    model = model.build(torch.device("cpu"))
    rows = Streams(0, tuple(range(1000)))
    noise, cond = rows.fold_in("start").normal((1,)), model.encode([""] * 1000)
    width = {}
    for kind in ("uniform", "log_snr"):
        times = time_grid(model, 16, kind, 0.01, 1.0)
        x1 = rollout(SDE(), unguided(model, cond), noise, times, rows)
        width[kind] = float((x1 - x1.sign()).std())
    assert width["log_snr"] == pytest.approx(0.05, rel=0.2)
    assert width["uniform"] > 0.09


@pytest.mark.parametrize("mode", [Steer, BestOfN])
def test_log_snr_refuses_starts_and_powers_that_it_has_no_use_for(mode):
    for start in (0.0, 0.5, 0.9):
        with pytest.raises(ValueError, match="'start' must be above 0 and below"):
            mode(grid="log_snr", start=start)
    with pytest.raises(ValueError, match="'power' must be left out with grid 'log_snr'"):
        mode(grid="log_snr", power=2.0)
    mode(start=0.0, power=2.0)


@by_kind
def test_steering_without_a_reward_is_plain_sampling(dynamics):
    world = plane()
    plain = sampled(BestOfN(flow_steps=6, dynamics=dynamics), world, 4)
    mode = Steer(steps=6, dynamics=dynamics, scale=0.0)
    assert torch.allclose(plain, sampled(mode, world, 4, estimator=Exact()), atol=1e-12)


@by_kind
def test_transitions_one_by_one_are_the_rollout(dynamics):
    model, _ = line()
    streams = Streams(0, (0, 1))
    x, followed = streams.normal((1,)), unguided(model, model.encode(["", ""]))
    times = [0.1, 0.4, 0.8, 1.0]
    end = rollout(dynamics, followed, x, times, streams)
    for index in range(3):
        pair = times[index : index + 2]
        (taken,) = transitions(dynamics, followed, x, pair, streams, first=index)
        x = taken.x
    assert torch.equal(x, end)


def test_rows_may_have_their_own_times():
    model, _ = line()
    x, cond = torch.tensor([[0.3], [-1.0]]).double(), model.encode(["", ""])
    start, end = torch.tensor([0.1, 0.6]).double(), torch.tensor([0.5, 1.0]).double()
    streams = Streams(0, (0, 1))
    both = rollout(SDE(), unguided(model, cond), x, [start, end], streams)
    for row in (0, 1):
        cut = slice(row, row + 1)
        times = [float(start[row]), float(end[row])]
        alone = rollout(SDE(), unguided(model, cond.rows(cut)), x[cut], times, streams.rows(cut))
        assert torch.allclose(both[cut], alone)


def test_flow_is_euler_to_its_end():
    model, _ = line()
    x, cond = torch.tensor([[0.3]]).double(), model.encode([""])
    wanted = x
    for j in range(4):
        wanted = wanted + 0.15 * model.velocity(wanted, torch.tensor([0.15 * j]).double(), cond)
    assert torch.allclose(flow(model, x, cond, steps=4, end=0.6), wanted, atol=1e-12)


def test_states_that_are_not_finite_stop_the_run():
    check_finite(torch.zeros(2, 1), torch.tensor(3.0))
    with pytest.raises(DivergedError, match=r"guidance was 3 times the flow's drift"):
        check_finite(torch.tensor([[0.0], [torch.inf]]), torch.tensor(3.0))


def test_guidance_is_normalised_row_by_row():
    drift = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
    guidance = torch.tensor([[0.0, 10.0], [0.0, 1.0], [0.0, 0.0]])
    assert torch.equal(normalise_guidance(guidance, drift, "none", 2.0), 2 * guidance)
    clipped = normalise_guidance(guidance, drift, "clip", 1.0)
    assert torch.allclose(clipped, torch.tensor([[0.0, 5.0], [0.0, 1.0], [0.0, 0.0]]))
    renormed = normalise_guidance(guidance, drift, "renorm", 2.0)
    assert torch.allclose(renormed, torch.tensor([[0.0, 10.0], [0.0, 10.0], [0.0, 0.0]]))
    assert Slope(drift, guidance).strength.tolist() == pytest.approx([2.0, 0.2, 0.0])


def test_log_ratio_is_that_of_the_two_gaussians():
    streams = Streams(0, (0, 1))
    mean, push = torch.tensor([[0.2], [1.0]]).double(), torch.tensor([[0.3], [-0.5]]).double()
    std = torch.tensor([0.4, 2.0]).double()
    drawn = GaussianStep.draw(mean, push, std, streams)
    base, guided = (
        torch.distributions.Normal(m, std[:, None]).log_prob(drawn.x)[:, 0]
        for m in (mean, mean + push)
    )
    assert torch.allclose(drawn.log_ratio, base - guided)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean + push, std[:, None]),
        torch.distributions.Normal(mean, std[:, None]),
    )
    assert torch.allclose(drawn.kl, kl[:, 0])


def test_a_gaussian_step_without_noise_has_log_ratio_zero():
    mean = torch.ones(2, 1).double()
    step = GaussianStep.draw(mean, mean, torch.zeros(2).double(), Streams(0, (0, 1)))
    assert torch.equal(step.x, mean)  # nor is it pushed
    assert not step.kl.any()
    assert not step.log_ratio.any()


def metered(estimator, sampler):
    """A problem of three rows on the plane whose network calls are counted."""
    model, reward = plane()
    meter = Meter()
    guarded = GuardedModel(model, "mixture", meter, 100)
    return Problem(guarded, reward, sampler, estimator, model.encode([""] * 3)), meter


@pytest.mark.parametrize(
    ("dynamics", "first", "last"),
    [(ODE(), 1, 1), (SDE(), 1, 1), (DDPM(), 1, 1), (Heun(), 2, 1), (GlassTransition(), 4, 4)],
    ids=lambda value: getattr(value, "kind", value),
)
def test_network_calls_are_one_an_evaluation_where_the_estimator_knows_the_denoiser(
    dynamics, first, last
):
    problem, meter = metered(Gradient(draws=1), DPS())
    streams, mode = Streams(0, (0, 1, 2)), Steer(steps=2, dynamics=dynamics)
    state, counts = mode.init(problem, streams), []
    for index in range(2):
        meter.calls.clear()
        state, _ = mode.step(problem, state, index, streams)
        counts.append(meter.calls["network"] / 3)
    assert counts == [first, last]


def test_network_calls_count_the_velocity_where_the_estimator_does_not_know_the_denoiser():
    problem, meter = metered(Stein(draws=4), MetaFlowMap())
    streams, mode = Streams(0, (0, 1, 2)), Steer(steps=1)
    mode.step(problem, mode.init(problem, streams), 0, streams)
    assert meter.calls["network"] == 3 * (4 + 1)


def test_guide_reuses_an_estimate_only_at_the_same_states_and_times():
    problem, meter = metered(Gradient(draws=2), DPS())
    guide = Guide(problem, problem.cond, Streams(0, (0, 1, 2)))
    x, t = torch.zeros(3, 2).double(), torch.full((3,), 0.4).double()
    estimate = guide.estimate(x, t)
    assert torch.equal(guide(x, t.clone()).shift, estimate.shift)
    assert len(guide.estimates) == 1
    guide(x.clone(), t)
    guide(x, t + 0.1)
    assert len(guide.estimates) == 3
    assert meter.calls["network"] == 9


def test_estimates_of_one_step_have_random_numbers_of_their_own():
    problem, _ = metered(Stein(draws=4), MetaFlowMap())
    x, t = torch.ones(3, 2).double(), torch.full((3,), 0.4).double()
    first, second = Guide(problem, problem.cond, Streams(0, (0, 1, 2))), None
    shifts = [first.estimate(x, t).shift for _ in range(2)]
    assert not torch.equal(shifts[0], shifts[1])
    second = Guide(problem, problem.cond, Streams(0, (0, 1, 2)))
    assert torch.equal(second.estimate(x, t).shift, shifts[0])


@pytest.mark.parametrize(
    "dynamics", [part for part in ALL if not part.has_density], ids=lambda part: part.kind
)
def test_dynamics_without_a_density_cannot_weigh_particles(dynamics):
    wanted = f"dynamics '{dynamics.kind}' has no density, so it cannot weigh particles"
    with pytest.raises(ValueError, match=wanted):
        Steer(dynamics=dynamics, particles=4, resample="systematic")
    assert Steer(dynamics=dynamics, particles=4, resample="best").particles == 4


class OwnSampler(GaussianMixture, Scheduled):
    """A mixture whose own sampler begins late; it remembers its states."""

    def times(self, steps):
        return tuple(0.2 + 0.8 * (j / steps) ** 2 for j in range(steps + 1))

    def begin(self, noise, steps):
        return noise / 2

    def velocity(self, x, t, cond):
        self.asked.append((float(t[0]), x))
        return super().velocity(x, t, cond)


@pytest.mark.parametrize(
    "mode",
    [
        lambda **grid: Steer(steps=4, scale=0.0, **grid),
        lambda **grid: BestOfN(flow_steps=4, **grid),
    ],
)
def test_steps_stop_at_the_models_own_times_unless_told_otherwise(mode):
    model, reward = line()
    model.__class__, model.asked = OwnSampler, []
    sampled(mode(), (model, reward), 3, estimator=Exact())
    times, states = zip(*model.asked, strict=True)
    assert times == pytest.approx(model.times(4)[:-1])
    noise = Streams(0, (0, 1, 2)).fold_in("start").normal((1,))
    assert states[0].flatten().tolist() == pytest.approx((noise / 2).flatten().tolist())
    others = {"uniform": grid(4, 0.01, 1.0), "log_snr": log_snr(model.path, 4, 0.01)}
    for kind, expected in others.items():
        model.asked = []
        sampled(mode(grid=kind), (model, reward), 3, estimator=Exact())
        times, states = zip(*model.asked, strict=True)
        assert times == pytest.approx(expected[:-1])
        assert states[0].flatten().tolist() == pytest.approx(noise.flatten().tolist())


def test_whole_flow_is_the_models_own_sampler():
    model, _ = line()
    model.__class__, model.asked = OwnSampler, []
    flow(model, torch.ones(2, 1).double(), model.encode(["", ""]), steps=3)
    assert [time for time, _ in model.asked] == pytest.approx(model.times(3)[:-1])
    assert float(model.asked[0][1][0]) == 0.5
