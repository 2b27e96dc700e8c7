"""Distances between samples against scipy and known answers."""

import pytest
import torch
from scipy import stats

from align.core.streams import Streams
from align.testing.distances import masses, sliced_w2, w1


def test_w1_is_scipy_s():
    a = Streams(0, (0,)).normal((500,))[0]
    b = 1.3 * Streams(1, (0,)).normal((200,))[0] + 0.4
    want = stats.wasserstein_distance(a.numpy(), b.numpy())
    assert w1(a, b) == pytest.approx(want, rel=1e-12)
    assert w1(a.float(), b.float()) == pytest.approx(want, rel=1e-4)


def test_sliced_w2_of_a_shift():
    a = Streams(0, tuple(range(1000))).normal((3,))
    shift = torch.tensor([1.0, -2.0, 0.5]).double()
    # In d dimensions, the mean over directions of ⟨θ, v⟩² is |v|²/d.
    want = float(shift.norm()) / 3**0.5
    assert sliced_w2(a, a + shift, projections=4000) == pytest.approx(want, rel=0.03)
    assert sliced_w2(a, a) == 0
    assert sliced_w2(a, torch.cat((a, a))) == pytest.approx(0, abs=1e-12)


def test_masses():
    points = torch.tensor([[0.0, 0.1], [0.2, 0.0], [5.0, 5.0], [4.0, 4.0]])
    centres = torch.tensor([[0.0, 0.0], [5.0, 5.0], [9.0, 9.0]])
    assert masses(points, centres).tolist() == [0.5, 0.5, 0.0]
