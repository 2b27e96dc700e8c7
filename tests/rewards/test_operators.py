"""Operators are the linear maps that they say they are."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from align.core.errors import PartError
from align.rewards.operators import Blur, Downsample, Inpaint

OPERATORS = (
    Inpaint(box=(1, 2, 5, 4)),
    Inpaint(box=(0, 0, 8, 5)),
    Downsample(factor=2),
    Downsample(factor=1),
    Blur(std=0.6),
    Blur(std=1.3, padding="zero"),
    Blur(std=3.0, padding="zero"),
)
NAMES = [str(operator) for operator in OPERATORS]
both = pytest.mark.parametrize("operator", OPERATORS, ids=NAMES)


@both
def test_linear(operator, noise):
    one, other = noise(2, 3, 8, 6), noise(2, 3, 8, 6, seed=1)
    together = operator.apply(2.5 * one - 0.7 * other)
    apart = 2.5 * operator.apply(one) - 0.7 * operator.apply(other)
    assert torch.allclose(together, apart, atol=1e-12)
    assert not operator.apply(torch.zeros_like(one)).any()


@both
def test_the_gradient_is_the_adjoint(operator, noise):
    # Aᵀ as a matrix, column by column from A alone.
    basis = torch.eye(48, dtype=torch.float64).reshape(48, 1, 8, 6)
    matrix = operator.apply(basis).flatten(1)
    x = noise(2, 1, 8, 6).requires_grad_(True)
    seen = operator.apply(x)
    z = noise(2, *seen.shape[1:], seed=2) - 0.5
    (back,) = torch.autograd.grad((seen * z).sum(), x)
    assert torch.allclose(back.flatten(1), z.flatten(1) @ matrix.T, atol=1e-12)
    inner = [float((a * b).detach().sum()) for a, b in ((seen, z), (x, back))]
    assert inner[0] == pytest.approx(inner[1], abs=1e-10)
    assert torch.allclose(seen.flatten(1), x.flatten(1) @ matrix, atol=1e-12)


@both
def test_rows_and_channels_are_seen_alike_and_alone(operator, noise):
    x = noise(2, 3, 8, 6)
    seen = operator.apply(x)
    assert seen.shape[:2] == (2, 3)
    for row in range(2):
        for channel in range(3):
            alone = operator.apply(x[row, channel][None, None])
            assert torch.allclose(alone[0, 0], seen[row, channel])
    assert operator.show(seen[0], 8, 6).shape == (3, 8, 6)


def test_inpainting_keeps_the_pixels_outside_the_box():
    x = torch.arange(48.0).reshape(1, 1, 8, 6)
    operator = Inpaint(box=(1, 2, 5, 4))
    hidden = [6 * row + column for row in (1, 2, 3, 4) for column in (2, 3)]
    assert operator.apply(x)[0, 0].tolist() == [n for n in range(48) if n not in hidden]
    shown = operator.show(operator.apply(x)[0], 8, 6)
    assert (shown[0, 1:5, 2:4] == 0.5).all()
    shown[0, 1:5, 2:4] = x[0, 0, 1:5, 2:4]
    assert torch.equal(shown, x[0])


def test_downsampling_returns_means_of_blocks():
    x = torch.arange(48.0).reshape(1, 1, 8, 6)
    seen = Downsample(factor=2).apply(x)
    assert seen[0, 0, 1, 2] == (16 + 17 + 22 + 23) / 4
    shown = Downsample(factor=2).show(seen[0], 8, 6)
    assert (shown[0, 2:4, 4:6] == seen[0, 0, 1, 2]).all()
    assert torch.equal(Downsample(factor=2).apply(shown[None]), seen)


@pytest.mark.parametrize(("padding", "mode"), [("reflect", "mirror"), ("zero", "constant")])
@pytest.mark.parametrize("std", [0.1, 0.6, 1.2])
def test_blur_is_a_convolution_with_its_kernel(padding, mode, std, noise):
    x = noise(1, 1, 8, 6)
    found = Blur(std=std, padding=padding).apply(x)[0, 0].numpy()
    wanted = gaussian_filter(x[0, 0].numpy(), std, mode=mode, truncate=4.0)
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_blur_keeps_what_is_flat_unless_it_is_dark_beyond_the_edge():
    flat = torch.ones(1, 1, 8, 6, dtype=torch.float64)
    assert torch.allclose(Blur(std=1.0).apply(flat), flat)
    assert float(Blur(std=1.0, padding="zero").apply(flat)[0, 0, 0, 0]) < 0.6


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        (Inpaint(box=(0, 0, 9, 2)), r"box \[0, 0, 9, 2\] .* 8 rows and 6 columns"),
        (Inpaint(box=(0, 0, 2, 7)), "does not lie within"),
        (Inpaint(box=(0, 0, 8, 6)), "hides the whole picture"),
        (Downsample(factor=4), "8x6 pixels do not divide into blocks of side 4"),
        (Blur(std=1.5), "more than 6 pixels a side at std 1.5, got 8x6; use 'zero'"),
    ],
)
def test_a_size_that_cannot_be_seen(operator, said):
    with pytest.raises(PartError, match=said):
        operator.apply(torch.zeros(1, 1, 8, 6))


def test_options_that_make_no_sense():
    for box in ((2, 0, 2, 4), (3, 0, 2, 4), (0, 4, 2, 4), (-1, 0, 2, 4), (0, -1, 2, 4)):
        with pytest.raises(ValueError, match="'box' must be"):
            Inpaint(box=box)
    with pytest.raises(ValueError, match="'factor' must be at least 1"):
        Downsample(factor=0)
    with pytest.raises(ValueError, match="'std' must be greater than 0"):
        Blur(std=0.0)
