"""The metric itself; the distance is tried in tests/testing/test_distances.py."""

import pytest
import torch

from align.core.errors import PartError
from align.core.streams import Streams
from align.metrics.sliced_wasserstein import SlicedWasserstein
from align.testing.distances import sliced_w2


def points(seed, count):
    return Streams(seed, tuple(range(count))).normal((3,))


def test_metric_equals_the_distance():
    a, b = points(0, 50), points(1, 70) + 2
    ((name, found),) = SlicedWasserstein(projections=16).compute(a, b).items()
    assert name == "sliced_wasserstein"
    assert found == sliced_w2(a, b, 16)
    shift = torch.tensor([1.0, -2.0, 2.0]).double()
    exact = SlicedWasserstein(projections=4000).compute(a, a + shift)["sliced_wasserstein"]
    assert exact == pytest.approx(3 / 3**0.5, rel=0.03)


@pytest.mark.parametrize("references", [None, torch.zeros(4, 2)])
def test_references_are_needed(references):
    with pytest.raises(PartError, match="compares vectors of 3 numbers with references"):
        SlicedWasserstein().compute(points(0, 4), references)


def test_references_may_have_another_precision():
    a, b = (Streams(seed, tuple(range(40))).normal((2,)) for seed in (0, 1))
    found = SlicedWasserstein().compute(a, b.double())["sliced_wasserstein"]
    assert found == pytest.approx(sliced_w2(a, b))
