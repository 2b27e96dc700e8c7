"""Particles: weights, resampling, and the target they keep."""

import attrs
import pytest
import torch

from align.core.errors import DivergedError
from align.core.problem import Problem
from align.core.streams import Streams
from align.dynamics.ddpm import DDPM
from align.dynamics.renoise import Renoise
from align.dynamics.sde import SDE
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.estimators.stein import Stein
from align.modes.sampling.particles import Selection, Weights, categorical, rows_of, systematic
from align.modes.sampling.steer import Steer
from align.samplers.dps import DPS
from align.samplers.exact import ExactPosterior
from align.testing.distances import w1
from align.testing.worlds import line, measured, plane, sampled

SMC = Steer(steps=50, dynamics=SDE(), particles=16, resample="systematic", ess_threshold=1.0)
RARE = attrs.evolve(SMC, resample_every=10, scale=0.0)


def run(mode, world, rows, sampler, estimator, seed=0):
    """The last state and the samples."""
    model, reward = world
    streams = Streams(seed, tuple(range(rows)))
    problem = Problem(model, reward, sampler, estimator, model.encode([""] * rows))
    state = mode.init(problem, streams)
    for index in range(mode.steps):
        state, info = mode.step(problem, state, index, streams)
    return state, mode.finish(problem, state), info


def test_systematic_resampling_copies_each_particle_by_its_weight():
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05]).double()
    streams = Streams(3, tuple(range(4000)))
    source = systematic(weights.log()[:, None].expand(4, 4000), streams)
    copies = torch.stack([(source == m).sum(0) for m in range(4)]).double()
    assert torch.allclose(copies.mean(1), 4 * weights, atol=0.02)
    low = (4 * weights).floor()[:, None]
    assert ((copies >= low) & (copies <= low + 1)).all()
    assert (source.diff(dim=0) >= 0).all()


def test_systematic_resampling_with_extreme_weights_takes_the_heaviest():
    log_weights = torch.tensor([[-1e6, 0.0], [0.0, -1e300], [-2e6, -5.0]]).double()
    source = systematic(log_weights, Streams(0, (0, 1)))
    assert source[:, 0].tolist() == [1, 1, 1]
    assert 1 not in source[:, 1].tolist()


def test_categorical_draws_follow_the_weights():
    log_weights = torch.tensor([0.7, 0.2, 0.1]).double().log()[:, None].expand(3, 20_000)
    numbers = categorical(log_weights, Streams(0, tuple(range(20_000))))
    assert torch.allclose(
        torch.bincount(numbers).double() / 20_000, torch.tensor([0.7, 0.2, 0.1]).double(), atol=0.01
    )


def test_rows_are_particle_major():
    source = torch.tensor([[1, 0], [1, 1]])
    x = torch.tensor([10, 20, 11, 21])  # particle 0 of samples 1 and 2, then particle 1
    assert x[rows_of(source)].tolist() == [11, 20, 11, 21]


@pytest.mark.parametrize(
    ("potential", "gained"),
    [("diff", [1.0, 2.0, -4.0]), ("max", [1.0, 3.0, 3.0]), ("add", [1.0, 4.0, 3.0])],
)
def test_weights_end_at_the_reward_whatever_the_potential(potential, gained):
    weights = Weights.equal(1, 1, torch.device("cpu"))
    total = 0.0
    for index, (value, gain) in enumerate(zip([1.0, 3.0, -1.0], gained, strict=True)):
        weights = weights.after_move(torch.full((1, 1), 0.25).double())
        weights = weights.after_values(torch.full((1, 1), value).double(), potential, index == 0)
        total += gain + 0.25
        assert float(weights.log) == pytest.approx(total)
    # Whatever potentials came before, a path's weight ends at e^r times the transition ratios.
    last = weights.after_rewards(torch.full((1, 1), 5.0).double())
    assert float(last.log) == pytest.approx(5.0 + 0.75)


@pytest.mark.parametrize(
    ("mode", "sampler", "estimator", "limit"),
    [
        (SMC, DPS(), Gradient(draws=1), 0.17),  # twists far from V: 16 are few
        (SMC, ExactPosterior(), Stein(draws=4), 0.07),
        (attrs.evolve(SMC, guidance_norm="renorm"), ExactPosterior(), Stein(draws=4), 0.09),
        (attrs.evolve(SMC, scale=0.5), None, Exact(), 0.06),
        (attrs.evolve(SMC, scale=0.5, dynamics=DDPM()), None, Exact(), 0.06),
        (attrs.evolve(SMC, resample="none", scale=0.0), DPS(), Stein(draws=1), 0.07),
        (attrs.evolve(RARE, potential="max"), DPS(), Stein(draws=1), 0.1),
        (attrs.evolve(RARE, potential="add"), DPS(), Stein(draws=1), 0.1),
    ],
    ids=["tds", "stein", "renorm", "half", "ddpm", "importance", "max", "add"],
)
def test_particles_follow_the_tilted_law_whatever_the_guidance(mode, sampler, estimator, limit):
    world = line()
    target = world[0].draw_tilted(world[1], Streams(1, tuple(range(50_000))))[:, 0]
    _, x1, _ = run(mode, world, 600, sampler, estimator)
    assert w1(x1[:, 0], target) < limit  # unsteered: 1.1


@pytest.mark.parametrize("guided", [False, True])
def test_particles_with_a_sharp_reward_stay_finite_and_near_the_measurement(guided):
    model, _ = plane()
    world = model, measured(((1.2, -0.8),), (-1.0,), 0.01)  # rewards down to −10⁵
    mode = attrs.evolve(SMC, particles=256, ess_threshold=0.5, guidance_norm="clip")
    if not guided:
        mode = attrs.evolve(mode, scale=0.0)
    _, x1, _ = run(mode, world, 16, DPS(), Gradient(draws=1))
    assert x1.isfinite().all()
    miss = (x1 @ torch.tensor([1.2, -0.8]).double() + 1).abs()
    assert float(miss.median()) < 0.05  # unsteered: 1


def test_diverged_steering_raises_with_a_cure():
    model, _ = plane()
    world = model, measured(((1.2, -0.8),), (-1.0,), 0.001)
    with pytest.raises(DivergedError, match=r"guidance drove states to .* guidance_norm = 'clip'"):
        sampled(Steer(steps=50), world, 4, sampler=DPS(), estimator=Gradient(draws=1))


def test_one_particle_takes_the_path_of_the_first_of_many():
    world = plane()
    parts = {"sampler": ExactPosterior(), "estimator": Stein(draws=2)}
    alone = attrs.evolve(SMC, particles=1, resample="none", steps=6)
    state, _, _ = run(attrs.evolve(SMC, resample="none", steps=6), world, 3, *parts.values())
    assert torch.equal(state.x[:3], sampled(alone, world, 3, **parts))


@pytest.mark.parametrize("resample", ["systematic", "best"])
def test_a_sample_with_particles_is_the_same_in_any_batch(resample):
    mode = attrs.evolve(SMC, particles=5, resample=resample, steps=10)
    world, parts = plane(), {"sampler": ExactPosterior(), "estimator": Stein(draws=2)}
    many = sampled(mode, world, 8, **parts)
    for samples in ((0,), (5, 2)):
        few = sampled(mode, world, samples, **parts)
        for row, sample in enumerate(samples):
            assert torch.allclose(few[row], many[sample], atol=1e-10)


def test_resampling_by_the_best_copies_it_and_best_per_particle_copies_nothing():
    value = torch.tensor([[1.0, 5.0], [2.0, 4.0]]).double()
    weights, streams = Weights.equal(2, 2, torch.device("cpu")), Streams(0, (0, 1))

    def ask(resample):
        selection = Selection(resample=resample, potential="diff", ess_threshold=0.5)
        return selection.select(weights, value, 0, streams)[1], selection

    source, selection = ask("best")
    assert source.tolist() == [[1, 0], [1, 0]]
    assert selection.winner(weights, value, streams)[1].tolist() == [1, 0]
    source, selection = ask("best_per_particle")
    assert source is None
    assert selection.winner(weights, value, streams)[1].tolist() == [1, 0]


def test_settings_that_cannot_weigh_particles_are_refused():
    with pytest.raises(ValueError, match="dynamics 'ode' has no density, so it cannot"):
        Steer(particles=4, resample="systematic")
    with pytest.raises(ValueError, match="more than one"):
        Steer(dynamics=SDE(), resample="systematic")
    Steer(particles=4, resample="best", dynamics=Renoise())
