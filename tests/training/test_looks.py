"""What a training shows of itself."""

import pytest
import torch

from align.training.looks import in_the_plane


def ink(plot):
    """Rows and columns of a plot that are not white."""
    return torch.nonzero(plot.mean(0) < 0.99)


def test_clouds_share_a_square_and_keep_their_names():
    left, right = torch.full((50, 2), -1.0), torch.full((50, 2), 1.0)
    looks = in_the_plane({"data": left, "draws": right})
    assert looks.captions == ("data", "draws")
    data, draws = looks.pictures
    assert data.shape == (3, 192, 192)
    assert (ink(data)[:, 0] > 150).all()  # -1 is below 1, and left of it
    assert (ink(data)[:, 1] < 40).all()
    assert (ink(draws)[:, 0] < 40).all()
    assert (ink(draws)[:, 1] > 150).all()


@pytest.mark.parametrize("far", [1e9, -1e9, float("inf")])
def test_points_that_are_far_stand_at_the_edge(far):
    usual = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    looks = in_the_plane({"all": torch.cat((usual, torch.tensor([[far, 0.0]])))})
    places = ink(looks.pictures[0])
    assert (places[:, 1] == (0 if far < 0 else 191)).any()
    assert len(places) > 1000


@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 2)])
def test_points_elsewhere_have_no_plot(shape):
    assert in_the_plane({"all": torch.zeros(shape)}) is None


def test_equal_points_have_a_plot():
    assert len(ink(in_the_plane({"all": torch.zeros(3, 2)}).pictures[0])) == 9
