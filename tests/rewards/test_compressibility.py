"""The size of a JPEG file as a reward."""

import io

import pytest
import torch
from PIL import Image

from align.core.streams import Streams
from align.rewards.compressibility import Compressibility, Incompressibility

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures():
    noise = Streams(0, (0, 1)).uniform((3, 24, 40)).float()
    flat = torch.full((1, 3, 24, 40), 0.5)
    return torch.cat((noise, flat))


def size(picture, quality):
    """Bytes of (3, H, W) as a JPEG file, by the library alone."""
    levels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "jpeg", quality=quality)
    return len(buffer.getvalue())


@pytest.mark.parametrize("quality", [10, 95])
def test_minus_kilobytes(pictures, quality):
    score = Compressibility(quality=quality).build(CPU).score(pictures, ["", "", ""])
    assert score.dtype == torch.float32
    assert score.tolist() == pytest.approx([-size(p, quality) / 1000 for p in pictures])


def test_incompressibility_is_the_same_size_with_the_other_sign(pictures):
    few, many = (cls(quality=30).build(CPU) for cls in (Compressibility, Incompressibility))
    assert torch.equal(many.score(pictures, [""] * 3), -few.score(pictures, [""] * 3))
    assert (many.score(pictures, [""] * 3) > 0).all()
    assert Incompressibility.differentiable is False


def test_noise_costs_more_than_a_flat_picture_and_more_at_high_quality(pictures):
    good, bad = (Compressibility(quality=q).build(CPU).score(pictures, [""] * 3) for q in (95, 10))
    assert good[2] > good[0] + 1
    assert (bad[:2] > good[:2]).all()
    assert (good < Compressibility.range[1]).all()


def test_rows_are_independent_and_the_input_is_left_alone(pictures):
    reward, before = Compressibility().build(CPU), pictures.clone()
    alone = torch.cat([reward.score(p[None], [""]) for p in pictures])
    assert torch.equal(alone, reward.score(pictures, [""] * 3))
    assert torch.equal(before, pictures)


def test_grey_pictures_out_of_range_and_gradients(pictures):
    reward = Compressibility().build(CPU)
    grey = pictures[:, :1]
    three = reward.score(grey.expand(-1, 3, -1, -1), [""] * 3)
    assert torch.equal(reward.score(grey, [""] * 3), three)
    wide = (pictures - 0.5) * 4
    assert torch.equal(reward.score(wide, [""] * 3), reward.score(wide.clamp(0, 1), [""] * 3))
    score = reward.score(pictures.clone().requires_grad_(True), [""] * 3)
    assert not score.requires_grad
    assert Compressibility.differentiable is False


def test_quality_has_bounds():
    for quality in (0, 101):
        with pytest.raises(ValueError, match="'quality' must be from 1 to 100"):
            Compressibility(quality=quality)
