"""Statistics of pictures whose values are known."""

import math

import pytest
import torch

from align.metrics.statistics import ImageStatistics


def stripes(low=0.0, high=1.0):
    """(1, 3, 8, 8): columns of `low` and `high` in turn."""
    row = torch.tensor([low, high] * 4)
    return row.expand(1, 3, 8, 8).clone()


def measured(pictures, **options):
    return ImageStatistics(**options).compute(pictures, None)


def test_a_flat_grey_picture_has_nothing():
    found = measured(torch.full((2, 3, 8, 8), 0.3))
    assert found == {"edges": 0, "entropy": pytest.approx(0, abs=1e-6), "saturation": 0}


def test_edges():
    # Every pixel but those of the first column differs from its left neighbour.
    assert measured(stripes())["edges"] == pytest.approx(7 / 8)
    assert measured(stripes().transpose(2, 3))["edges"] == pytest.approx(7 / 8)
    assert measured(stripes(0.5, 0.58))["edges"] == 0
    assert measured(stripes(0.5, 0.58), edge=0.05)["edges"] == pytest.approx(7 / 8)


def test_entropy_in_bits():
    assert measured(stripes())["entropy"] == pytest.approx(1)
    eight = (torch.arange(8) / 8 + 0.01).expand(1, 3, 8, 8)
    assert measured(eight)["entropy"] == pytest.approx(3)
    # One bin holds a colour and its close neighbour.
    assert measured(stripes(0.30, 0.31))["entropy"] == pytest.approx(0, abs=1e-6)
    # 512 pixels, each of another colour.
    codes = torch.arange(512)
    colours = torch.stack((codes // 64, codes // 8 % 8, codes % 8)) / 8 + 0.01
    assert measured(colours.reshape(1, 3, 16, 32))["entropy"] == pytest.approx(9, abs=1e-4)


def test_saturation():
    colour = torch.tensor([0.8, 0.4, 0.2])[None, :, None, None].expand(1, 3, 4, 4)
    assert measured(colour)["saturation"] == pytest.approx(0.75)
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(1, 3, 4, 4)
    assert measured(torch.cat((red, torch.zeros(1, 3, 4, 4))))["saturation"] == pytest.approx(0.5)


def test_means_over_pictures_grey_pictures_and_values_out_of_range():
    both = torch.cat((stripes(), torch.full((1, 3, 8, 8), 0.3)))
    found = measured(both)
    assert found["edges"] == pytest.approx(7 / 16)
    assert found["entropy"] == pytest.approx(0.5, abs=1e-6)
    assert measured(both[:, :1]) == found
    assert measured(stripes(-3.0, 4.0)) == measured(stripes())
    assert all(isinstance(n, float) and math.isfinite(n) for n in found.values())


def test_edge_has_a_bound():
    with pytest.raises(ValueError, match="'edge' must be greater than 0"):
        ImageStatistics(edge=0.0)
