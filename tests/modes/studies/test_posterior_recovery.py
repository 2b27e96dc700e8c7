"""Posterior draws beside the data."""

import attrs
import pytest

from align.core.problem import Problem
from align.metrics.sliced_wasserstein import SlicedWasserstein
from align.modes.studies.posterior_recovery import PosteriorRecovery
from align.samplers.dps import DPS
from align.samplers.exact import ExactPosterior
from align.samplers.glass import Glass
from align.samplers.mfm import MetaFlowMap
from align.testing.worlds import plane

MODE = PosteriorRecovery(metric=SlicedWasserstein(), times=(0.0, 0.2, 0.8), inner_steps=(1, 4, 16))


def table(found):
    """Values by time and calls."""
    values = {}
    for point in found.points:
        values.setdefault(point.panel, {})[point.calls] = point.value
    return values


def test_exact_draws_have_the_law_of_the_data(studied):
    model, _ = plane()
    for sampler, calls in ((ExactPosterior(), [0.0]), (MetaFlowMap(), [1.0, 4.0, 16.0])):
        _, found = studied(MODE, Problem(model, sampler=sampler), 2000)
        values = table(found)
        assert list(values) == ["t = 0", "t = 0.2", "t = 0.8"]
        assert found.value == "sliced_wasserstein"
        for one in values.values():
            assert list(one) == calls
            assert max(one.values()) < 0.2  # two sets of 2000: .05 to .15


def test_more_steps_of_glass_are_nearer(studied):
    model, _ = plane()
    values = table(studied(MODE, Problem(model, sampler=Glass()), 2000)[1])
    for panel in ("t = 0", "t = 0.2"):
        far, nearer, near = (values[panel][calls] for calls in (1.0, 4.0, 16.0))
        assert near < nearer / 2 < far / 2
    assert values["t = 0.8"][1.0] < 0.1 * values["t = 0"][1.0]  # data are hardly noisy then
    points = table(studied(MODE, Problem(model, sampler=DPS()), 2000)[1])
    for panel, one in points.items():
        assert one == {1.0: pytest.approx(values[panel][1.0])}  # one step of GLASS is the denoiser


def test_calls_are_those_of_the_sampler(studied):
    model, _ = plane()
    heun = table(studied(MODE, Problem(model, sampler=Glass(method="heun")), 10)[1])
    assert list(heun["t = 0.2"]) == [1.0, 7.0, 31.0]


def test_data_are_reused_by_the_next_arm_of_an_equal_study(studied):
    model, _ = plane()
    problem = Problem(model, sampler=ExactPosterior())
    state, _ = studied(MODE, problem, 10)
    again, found = studied(MODE, attrs.evolve(problem, sampler=DPS()), 10, seed=5, last=state)
    assert again.x1 is state.x1
    assert again.references is state.references
    assert len(found.points) == 3
