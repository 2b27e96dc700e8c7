"""Statistics of a picture as rewards: values that are known, targets, gradients."""

import math

import pytest
import torch

from align.metrics.statistics import COUNTS, LARGEST, ImageStatistics, statistic
from align.rewards.statistic import PictureStatistic

CPU = torch.device("cpu")


def scored(data, **options):
    return PictureStatistic(**options).build(CPU).score(data, [""] * len(data))


def checkers(side=8):
    """(1, 3, side, side): black and white in turn."""
    places = torch.arange(side)
    return ((places[:, None] + places) % 2).float().expand(1, 3, side, side)


def test_values_that_are_known():
    flat, board = torch.full((1, 3, 8, 8), 0.3), checkers()
    known = {
        "brightness": (0.3, 0.5),
        "contrast": (0, 0.5),
        "saturation": (0, 0),
        "edges": (0, 63 / 64),
        "entropy": (0, 1),
    }
    for name, (of_flat, of_board) in known.items():
        assert scored(flat, of=name).item() == pytest.approx(of_flat, abs=2e-6)
        assert scored(board, of=name).item() == pytest.approx(of_board, abs=2e-6)
    # Away from the edge the Laplacian is 4 on black and -4 on white.
    assert scored(flat, of="sharpness").item() == pytest.approx(0, abs=1e-6)
    assert scored(checkers(256), of="sharpness").item() == pytest.approx(16, rel=0.01)
    point = torch.zeros(1, 1, 5, 5)
    point[..., 2, 2] = 1  # the Laplacian is -4 there, 1 at four neighbours, and 0 else
    assert scored(point, of="sharpness").item() == pytest.approx(20 / 25)


def test_the_metric_and_the_reward_agree(noise):
    data = noise(3, 3, 12, 10).float()
    for name, mean in ImageStatistics(edge=0.2).compute(data, None).items():
        assert float(scored(data, of=name, edge=0.2).mean()) == pytest.approx(mean)


def test_towards_a_value():
    data = torch.stack([torch.full((3, 4, 4), level) for level in (0.2, 0.5, 0.7)])
    score = scored(data, of="brightness", towards=0.5, width=0.2)
    assert score.tolist() == pytest.approx([-2.25, 0, -1], abs=1e-5)


@pytest.mark.parametrize("name", sorted(set(LARGEST) - COUNTS))
def test_climbing_raises_the_statistic(name, noise):
    data = noise(2, 3, 12, 12).float() * 0.2 + 0.4
    first = scored(data, of=name)
    for _ in range(5):
        data.requires_grad_()
        (slope,) = torch.autograd.grad(scored(data, of=name).sum(), data)
        data = data.detach() + 0.02 * slope.sign()
    assert (scored(data, of=name) > 1.05 * first).all()


@pytest.mark.parametrize("name", LARGEST)
def test_grey_pictures_precision_and_flat_pictures(name, noise):
    data = noise(2, 1, 8, 8)
    assert torch.equal(scored(data, of=name), scored(data.expand(-1, 3, -1, -1), of=name))
    assert scored(data.bfloat16(), of=name).dtype == torch.float32
    assert scored(3 * data - 1, of=name).equal(scored((3 * data - 1).clamp(0, 1), of=name))
    flat = torch.full((1, 3, 4, 4), 0.5, requires_grad=name not in COUNTS)
    score = scored(flat, of=name)
    if name not in COUNTS:
        assert torch.autograd.grad(score.sum(), flat)[0].isfinite().all()
    assert 0 <= score.item() < LARGEST[name]


@pytest.mark.parametrize("name", LARGEST)
def test_statistic_declares_its_range_and_gradient(name):
    part = PictureStatistic(of=name)
    assert part.differentiable == (name not in COUNTS)
    assert part.range == (0, LARGEST[name])
    assert PictureStatistic(of=name, towards=0.3).range == (-math.inf, 0)
    data = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    assert statistic(name, data).requires_grad == part.differentiable


def test_bounds_of_the_options():
    for name in ("width", "edge"):
        with pytest.raises(ValueError, match=f"'{name}' must be greater than 0"):
            PictureStatistic(of="edges", **{name: 0.0})
