"""Samples of a few steps beside data."""

import attrs
import pytest

from align.core.problem import Problem
from align.core.streams import Streams
from align.metrics.sliced_wasserstein import SlicedWasserstein
from align.models.mixture import Mixture
from align.modes.studies.fidelity import Fidelity
from align.samplers.glass import Glass
from align.samplers.mfm import MetaFlowMap
from align.testing.worlds import plane

MODE = Fidelity(metric=SlicedWasserstein())


def values(found):
    return {point.calls: point.value for point in found.points}


def test_refinement_with_an_exact_map_is_exact_at_any_number_of_steps(studied):
    found = studied(MODE, Problem(plane()[0], sampler=MetaFlowMap()), 2000)[1]
    assert list(values(found)) == [1, 2, 4, 8]
    assert max(values(found).values()) < 0.25  # two sets of 2000: .05 to .2
    assert (found.value, found.calls) == ("sliced_wasserstein", "NFE a sample")


def test_refinement_counts_the_calls_of_its_draws(studied):
    found = values(studied(MODE, Problem(plane()[0], sampler=Glass(steps=4)), 500)[1])
    assert list(found) == [4, 8, 16, 32]
    assert found[32] < found[4]


def test_the_flow_needs_many_steps(studied):
    mode = attrs.evolve(MODE, method="flow", outer_steps=(1, 4, 64))
    found = values(studied(mode, Problem(plane()[0], sampler=MetaFlowMap()), 2000)[1])
    assert list(found) == [1, 4, 64]
    assert found[1] > 2 > found[4] > 0.6
    assert found[64] < 0.25


def test_samples_are_compared_with_the_data_model_if_there_is_one(studied):
    law = Mixture(weights=(1.0,), means=((9.0, 0.0),), stds=(0.1,))
    mode = attrs.evolve(MODE, data_model=law, outer_steps=(1,))
    found = values(studied(mode, Problem(plane()[0], sampler=MetaFlowMap()), 500)[1])
    assert found[1] == pytest.approx((81 / 2 + 6.5) ** 0.5, rel=0.2)  # (|shift|² + variances) / 2


def test_samples_have_no_class_or_those_of_the_data(network, pictures):
    streams = Streams(0, tuple(range(4)))
    for by_class in (False, True):
        mode = attrs.evolve(MODE, data=pictures, by_class=by_class)
        state = mode.init(network, streams)
        assert state.references.shape == (4, 3, 8, 8)
        named = set(state.cond.prompts)
        assert named == ({"black", "white"} if by_class else {""})
