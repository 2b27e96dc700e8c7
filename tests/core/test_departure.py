"""Samples that leave the model are noticed, and others are not."""

import math

import pytest
import torch

from align.core.departure import Departure, Traits
from align.core.errors import ContractError
from align.core.streams import Streams
from align.estimators.exact import Exact
from align.estimators.gradient import Gradient
from align.models.mixture import GaussianMixture, Isotropic
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.samplers.dps import DPS
from align.samplers.mfm import MetaFlowMap
from align.testing.worlds import line, measured, plane, sampled


def traits(model, x1, seed=0):
    streams = Streams(seed, tuple(range(len(x1))))
    return Traits.of(model, x1, model.encode([""] * len(x1)), streams)


@pytest.fixture(scope="module")
def base():
    """64 unsteered samples of the mixture of the plane."""
    model, _ = plane()
    return traits(model, sampled(BestOfN(flow_steps=20), plane(), 64, seed=7))


def departure(base, mode, reward, **parts):
    world = (plane()[0], reward)
    return Departure.of(traits(world[0], sampled(mode, world, 64, **parts)), base)


NEAR = measured(((1.0, -1.0),), (0.5,), 1.0)
BETWEEN = measured(((1.0, 0.0),), (1.0,), 0.1)  # the gap between two components


def test_dps_with_too_strong_a_reward_leaves_the_model(base):
    found = departure(base, Steer(steps=20), BETWEEN, sampler=DPS(), estimator=Gradient(draws=1))
    assert found.left > 0.9 and found.residual > 10 and found.norm > 3
    note = found.note(64)
    assert note.startswith("6") and "of 64 samples leave the model" in note
    assert "lower the weights" in note


def test_note_has_the_longest_sample_beside_the_median(base):
    norm = base.norm.clone()
    norm[:8] = 4000 * norm.median()
    note = Departure.of(Traits(norm, base.residual), base).note(64)
    assert note.startswith("8 of 64 samples leave the model: ")
    assert "in the median; length up to 4e+03 times)" in note


@pytest.mark.parametrize(
    "parts",
    [{"estimator": Exact()}, {"sampler": MetaFlowMap(), "estimator": Gradient(draws=4)}],
    ids=["exact", "mfm"],
)
def test_steering_at_a_moderate_weight_stays_with_the_model(base, parts):
    found = departure(base, Steer(steps=12), NEAR, **parts)
    assert found.note(64) is None and found.left < 0.05
    assert 0.5 < found.norm < 2 and 0.3 < found.residual < 3


def test_unsteered_samples_seldom_count_as_leaving():
    """Of 200 runs of 8 samples beside 32 base samples, with exact draws, at most one warns."""
    for model, _ in (line(), plane()):
        x1 = model.draw(Streams(3, tuple(range(8000))))
        all_of = traits(model, x1)
        warned = 0
        for run in range(200):
            base, own = (
                Traits(all_of.norm[rows], all_of.residual[rows])
                for rows in (
                    slice(40 * run, 40 * run + 32),
                    slice(40 * run + 32, 40 * run + 40),
                )
            )
            warned += Departure.of(own, base).note(8) is not None
        assert warned <= 2


def test_residual_of_samples_is_the_loss_of_the_closed_form():
    """Of data N(0, v I) the loss is (α' + ...)², known at each time."""
    law = Isotropic(torch.zeros(1, 1).double(), torch.zeros(1, 1, 2).double(), torch.ones(1, 1))
    model = GaussianMixture(law, line()[0].path, torch.eye(2).double())
    x1 = model.draw(Streams(0, tuple(range(20000))))
    wanted = 0.0
    for ratio in (0.25, 0.05):
        # D − x1 has variance r²/(1 + r²); b − İ is that over α², with α = r/(1 + r).
        wanted += ratio**2 / (1 + ratio**2) * ((1 + ratio) / ratio) ** 2 / 2
    assert float(traits(model, x1).residual.mean()) == pytest.approx(wanted, rel=0.02)


def test_model_that_has_no_velocity_there_is_told_apart(base):
    class Broken(GaussianMixture):
        def velocity(self, x, t, cond):
            raise ContractError("not finite")

    law = plane()[0]
    found = Departure.of(
        traits(Broken(law.prior, law.path, law.axes), torch.zeros(4, 2).double()), base
    )
    assert found.left == 1 and math.isfinite(found.residual)
    assert "a million times and more" in found.note(4)


def test_few_base_samples_say_nothing(base):
    few = Traits(base.norm[:31], base.residual[:31])
    assert Departure.of(base, few) is None


def test_collapsed_samples_leave_where_states_have_many_numbers():
    wide = Traits(torch.linspace(30, 33, 64).double(), torch.ones(64).double())
    flat = Traits(torch.tensor([2.0, 31.0]).double(), torch.ones(2).double())
    assert Departure.of(flat, wide).left == 0.5
    narrow = Traits(torch.linspace(0.1, 3, 64).double(), torch.ones(64).double())
    assert Departure.of(Traits(0 * flat.norm, flat.residual), narrow).left == 0
