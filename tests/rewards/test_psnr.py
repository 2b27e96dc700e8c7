"""The signal-to-noise ratio to a known picture."""

import math

import pytest
import torch

from align.rewards.known import known
from align.rewards.psnr import PSNR

CPU = torch.device("cpu")


@pytest.mark.parametrize("colour", [False, True])
def test_decibels_of_a_uniform_error(colour, picture_of, grey_levels, colour_levels):
    path = picture_of(colour_levels // 2 if colour else grey_levels // 2)
    x0 = known(path, CPU).picture.expand(3, -1, -1)
    errors = (0.1, 0.01, 0.25)
    data = torch.stack([x0 + error for error in errors])
    score = PSNR(picture=path).build(CPU).score(data, [""] * 3)
    assert score.tolist() == pytest.approx([-20 * math.log10(e) for e in errors], abs=1e-3)
    assert (score.dtype, score.shape) == (torch.float32, (3,))


def test_the_mean_is_over_pixels_and_channels(picture_of, colour_levels):
    path = picture_of(colour_levels // 2)
    data = known(path, CPU).picture[None].clone()
    data[0, 1, 2, 3] += 0.4
    wanted = -10 * math.log10(0.16 / (8 * 6 * 3))
    assert float(PSNR(picture=path).build(CPU).score(data, [""])) == pytest.approx(wanted, abs=1e-3)


def test_bounds(picture_of, grey_levels):
    path = picture_of(grey_levels * 0)
    reward = PSNR(picture=path).build(CPU)
    x0 = known(path, CPU).picture[None]
    # The picture itself, what is clamped to it, the farthest one, and beyond.
    data = torch.cat((x0, x0 - 3, x0 + 1, x0 + 7))
    assert reward.score(data, [""] * 4).tolist() == pytest.approx([100, 100, 0, 0], abs=1e-4)
    assert PSNR.range == (0.0, 100.0)


def test_the_gradient_points_to_the_picture(picture_of, grey_levels, noise):
    path = picture_of(grey_levels)
    x0 = known(path, CPU).picture
    x = noise(2, 3, 8, 6).float().requires_grad_(True)
    (gradient,) = torch.autograd.grad(PSNR(picture=path).build(CPU).score(x, ["", ""]).sum(), x)
    # Samples are seen as the mean of their channels.
    away = x.detach().mean(1, keepdim=True) - x0
    assert torch.allclose(gradient.sign(), -away.sign().expand_as(gradient))
