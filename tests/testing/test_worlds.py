"""Steering, and every mode, on worlds whose right answer is known by quadrature; on both paths."""

import attrs
import numpy as np
import pytest
import torch
from scipy import integrate, stats

from align.core.model import FlowModel, NoisyState
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
from align.estimators.blend import Blend
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.metrics.sliced_wasserstein import SlicedWasserstein
from align.modes.finetune.evaluation import Evaluation
from align.modes.finetune.gradient import GradientObjective
from align.modes.finetune.mode import FineTune
from align.modes.finetune.stein import SteinObjective
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.modes.studies.fidelity import Fidelity
from align.modes.studies.posterior_recovery import PosteriorRecovery
from align.modes.studies.value_correlation import ValueCorrelation
from align.networks.mlp import MLPConfig
from align.samplers.dps import DPS
from align.samplers.exact import ExactPosterior
from align.samplers.gaussian import GaussianPosterior
from align.samplers.glass import Glass
from align.samplers.mfm import MetaFlowMap
from align.testing.distances import sliced_w2
from align.testing.probes import scaled
from align.testing.worlds import ByQuadrature, line, plane, sampled, tuned, unequal
from align.training.loop import Optimisation

paths = pytest.mark.parametrize("path", PATHS)
ROWS = 600


def noisy_of(model, times=(0.0, 0.1, 0.5, 0.9)):
    """States of the model's own data at some times."""
    streams = Streams(3, tuple(range(len(times))))
    t = torch.tensor(times).double()
    x = model.path.interpolate(streams.normal((2,)), model.draw(streams), t)
    return NoisyState(x, t, model.encode([""] * len(t)))


def exact_draws(world, count):
    """Exact draws of the tilted law."""
    model, reward = world
    (term,) = reward.terms
    kept = term.reward.kept(model, Streams(1, tuple(range(4 * count))))
    assert len(kept) >= count
    return kept[:count]


@pytest.fixture(scope="module", params=PATHS)
def world(request):
    """The world on either path, exact draws of its tilted law, and how far two sets of them lie."""
    world = unequal(request.param)
    draws = exact_draws(world, 2 * ROWS)
    return world, draws[:ROWS], sliced_w2(draws[:ROWS], draws[ROWS:])


@paths
def test_the_value_is_that_of_an_integral_in_the_plane(path):
    model, reward = unequal(path)
    noisy = noisy_of(model)
    found = ByQuadrature().estimate(Problem(model, reward), noisy, streams=Streams(0, ())).value
    for row in range(1, 4):
        x = noisy.x[row].numpy()
        alpha, beta = (float(f(noisy.t[row])) for f in (model.path.alpha, model.path.beta))

        def joint(b, a, x=x, alpha=alpha, beta=beta):
            prior = model.prior
            density = sum(
                w * stats.norm.pdf(a, m[0], s) * stats.norm.pdf(b, m[1], s)
                for w, m, s in zip(
                    prior.log_weights.exp()[0].tolist(),
                    prior.means[0].tolist(),
                    prior.variances[0].sqrt().tolist(),
                    strict=True,
                )
            )
            seen = stats.norm.pdf(x[0], beta * a, alpha) * stats.norm.pdf(x[1], beta * b, alpha)
            return density * seen

        grid = np.linspace(-9, 9, 1201)
        a, b = np.meshgrid(grid, grid, indexing="ij")
        mass = joint(b, a)
        score = 1 / (1 + np.exp(-(2 * a - b + 0.5)))
        both = (
            integrate.simpson(integrate.simpson(f, x=grid), x=grid) for f in (mass * score, mass)
        )
        numerator, denominator = both
        assert float(found[row]) == pytest.approx(np.log(numerator / denominator), abs=1e-8)


@pytest.mark.parametrize(
    "dynamics",
    [ODE(), Heun(), SDE(), DDPM(), DDIM(), GlassTransition()],
    ids=lambda part: part.kind,
)
def test_every_dynamics_follows_the_tilted_law(dynamics, world):
    known, target, floor = world
    x1 = sampled(Steer(steps=40, dynamics=dynamics), known, ROWS, estimator=ByQuadrature())
    assert sliced_w2(x1, target) < 1.5 * floor + 0.06


# With the noise of the default clamp, one to three Euler steps are far from any law of the SDE.
@pytest.mark.parametrize(
    "dynamics", [ODE(), SDE(clamp=1.0), DDPM(), Heun(), Renoise()], ids=lambda d: d.kind
)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_few_steps_are_finite_and_climb(dynamics, steps, world):
    (model, reward), _, _ = world
    mode = Steer(steps=steps, dynamics=dynamics)
    x1 = sampled(mode, (model, reward), 64, estimator=ByQuadrature())
    plain = sampled(BestOfN(flow_steps=steps, dynamics=dynamics), (model, reward), 64)
    gain = reward.total(x1, [""]).mean() - reward.total(plain, [""]).mean()
    assert x1.isfinite().all()
    assert gain > (-1e-12 if dynamics == DDPM() and steps == 1 else 0)  # one step is not guided


@pytest.mark.parametrize(
    "estimator",
    [
        Stein(draws=400),
        Stein(draws=400, centring="regression"),
        Gradient(draws=400),
        Blend(draws=400),
    ],
    ids=str,
)
@paths
def test_draws_estimate_value_and_shift(estimator, path):
    model, reward = unequal(path)
    noisy = noisy_of(model, (0.3, 0.6, 0.9)).tile(40)
    problem = Problem(model, reward, MetaFlowMap(), None, noisy.cond)
    streams = Streams(0, tuple(range(len(noisy.t))))
    found = estimator.estimate(problem, noisy, streams=streams)
    exact = ByQuadrature().estimate(problem, noisy, streams=streams)
    for name, bias in (("value", 0.004), ("shift", 0.01)):
        apart = (getattr(found, name) - getattr(exact, name)).unflatten(0, (40, 3))
        error = apart.std(0) / 40**0.5
        assert (apart.mean(0).abs() < 4.5 * error + bias).all(), (name, apart.mean(0), error)


@paths
def test_best_of_n_draws_the_law_of_the_best(path):
    world, n = unequal(path), 4
    model, reward = world
    x1 = sampled(BestOfN(n=n, flow_steps=60), world, ROWS)
    scores = reward.total(x1, [""]).sort().values
    plain = reward.total(model.draw(Streams(5, tuple(range(20_000)))), [""]).sort().values
    # P(best < r) = P(one < r)^n.
    below = (torch.searchsorted(plain, scores).double() / len(plain)) ** n
    uniform = (torch.arange(ROWS).double() + 0.5) / ROWS
    assert float((below - uniform).abs().max()) < 1.63 / ROWS**0.5 + 0.02  # Kolmogorov, 1 %


@pytest.mark.parametrize(
    ("objective", "sampler"),
    [(GradientObjective(), MetaFlowMap()), (SteinObjective(draws=2), ExactPosterior())],
    ids=str,
)
def test_a_flow_is_fine_tuned_to_the_tilted_law(objective, sampler, world):
    (model, reward), target, floor = world
    streams = Streams(0, tuple(range(ROWS)))
    problem = Problem(model, reward, sampler, cond=model.encode([""] * ROWS))
    mode = FineTune(
        net=MLPConfig(width=64, depth=2),
        objective=objective,
        optimisation=Optimisation(batch=256, learning_rate=1e-2, warmup=10, ema_decay=0.95),
        steps=150,
        evaluation=Evaluation(every=1000, samples=8, flow_steps=5),
    )
    state = mode.init(problem, streams)
    for index in range(mode.steps):
        state, _ = mode.step(problem, state, index, streams)
    plain = model.draw(Streams(7, tuple(range(ROWS))))
    x1 = mode.finish(problem, state)
    distance, before = sliced_w2(x1, target), sliced_w2(plain, target)
    assert before > 0.6
    assert distance < 2 * floor + 0.15


def points(mode, problem, rows):
    """What a study finds."""
    streams = Streams(0, tuple(range(rows)))
    state = mode.init(problem, streams)
    for index in range(mode.steps):
        state, _ = mode.step(problem, state, index, streams)
    return [point.value for point in mode.findings(state).points]


@paths
def test_studies_find_exact_draws_right(path):
    model, reward = unequal(path)
    problem = Problem(model, reward, ExactPosterior(), None, model.encode([""] * ROWS))
    floor = sliced_w2(*(model.draw(Streams(s, tuple(range(ROWS)))) for s in (1, 2)))
    recovery = PosteriorRecovery(metric=SlicedWasserstein(), times=(0.0, 0.5, 0.9))
    for distance in points(recovery, problem, ROWS):
        assert distance < 1.8 * floor + 0.02
    fidelity = Fidelity(metric=SlicedWasserstein(), outer_steps=(1, 3))
    for distance in points(fidelity, problem, ROWS):
        assert distance < 1.8 * floor + 0.02
    few = attrs.evolve(problem, cond=model.encode([""] * 24))
    values = ValueCorrelation(times=(0.3,), draws=200, particles=200, rollout_steps=25)
    assert min(points(values, few, 24)) > 0.95


@attrs.frozen(eq=False)
class Coarse(FlowModel):
    """The world in bfloat16 states: its velocity is computed in float64 and rounded."""

    inner: FlowModel
    dtype = torch.bfloat16
    domain, shape, device = "vector", (2,), torch.device("cpu")

    @property
    def path(self):
        return self.inner.path

    def encode(self, prompts):
        return self.inner.encode(prompts)

    def decode(self, x1):
        return x1.float()

    def velocity(self, x, t, cond):
        assert x.dtype == torch.bfloat16
        assert t.dtype == torch.float32
        assert (t < 1).all()
        return self.inner.velocity(x.double(), t.double(), cond).to(x.dtype)


@pytest.mark.parametrize(
    "dynamics",
    [ODE(), Heun(), SDE(), DDPM(), DDIM(), GlassTransition(), Renoise()],
    ids=lambda part: part.kind,
)
@paths
def test_times_of_bfloat16_states_do_not_reach_one_before_the_end(dynamics, path):
    model, reward = unequal(path)
    problem_model = Coarse(model)
    mode = Steer(times=(0.3, 0.9, 0.997, 0.9985, 1.0), dynamics=dynamics)
    for sampler in (DPS(), Glass(steps=2), GaussianPosterior()):
        parts = {"sampler": sampler, "estimator": Stein(draws=2)}
        x1 = sampled(mode, (problem_model, reward32(reward)), 4, **parts)
        assert x1.dtype == torch.bfloat16
        assert x1.isfinite().all()


def reward32(reward):
    """The reward in float32."""
    (term,) = reward.terms
    narrow = attrs.evolve(term.reward, slope=term.reward.slope.float())
    return type(reward)((attrs.evolve(term, reward=narrow),))


@paths
def test_tuned_line_has_the_value_of_what_is_left_of_the_reward(path):
    model, reward = line(path)
    noisy = NoisyState(
        torch.linspace(-2, 3, 5).double()[:, None],
        torch.full((5,), 0.4).double(),
        model.encode([""] * 5),
    )
    part, rest = scaled(reward, 0.3), scaled(reward, 0.7)
    after = tuned(model, part)
    sums = model.value(noisy, part) + after.value(noisy, rest)
    torch.testing.assert_close(sums, model.value(noisy, reward))
    moved = Exact().estimate(Problem(model, part), noisy, streams=Streams(0, tuple(range(5))))
    torch.testing.assert_close(after.denoiser(noisy), model.denoiser(noisy) + moved.shift)


@paths
def test_steering_what_was_tuned_ends_where_steering_by_the_sum_does(path):
    """Tuned at λ₁ and steered at λ₂: sample by sample that of λ₁ + λ₂, as velocities are one."""
    model, reward = line(path)
    later = tuned(model, scaled(reward, 0.3)), scaled(reward, 0.7)
    ends = [sampled(Steer(steps=20), w, 32, estimator=Exact()) for w in ((model, reward), later)]
    torch.testing.assert_close(*ends)


def test_a_reward_that_is_sharper_one_way_is_no_tuning_of_round_components():
    with pytest.raises(ValueError, match="take one on a line"):
        tuned(*plane())
