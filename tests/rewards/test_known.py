"""Known pictures: how they are read, and what counts."""

import numpy as np
import pytest
import torch
from PIL import Image

from align.core.errors import PartError
from align.rewards.known import known

CPU = torch.device("cpu")


def test_a_picture_in_colour(picture_of, colour_levels):
    read = known(picture_of(colour_levels), CPU).picture
    assert (read.shape, read.dtype) == ((3, 8, 6), torch.float32)
    assert torch.equal(
        (read * 255).round().byte(), torch.from_numpy(colour_levels).permute(2, 0, 1).byte()
    )


def test_grey_is_one_channel_however_it_is_stored(picture_of, grey_levels):
    alone = known(picture_of(grey_levels), CPU).picture
    thrice = known(picture_of(np.stack([grey_levels] * 3, -1)), CPU).picture
    assert alone.shape == (1, 8, 6)
    assert torch.equal(alone, thrice)
    assert float(alone[0, 7, 5]) == pytest.approx(47 * 5 / 255)


def test_samples_take_the_channels_of_the_picture(picture_of, grey_levels, colour_levels, noise):
    grey, colour = known(picture_of(grey_levels), CPU), known(picture_of(colour_levels), CPU)
    data = noise(2, 3, 8, 6)
    assert torch.allclose(grey.view(data), data.mean(1, keepdim=True))
    assert torch.equal(grey.view(data[:, :1]), data[:, :1])
    assert torch.equal(colour.view(data), data)
    assert torch.equal(colour.view(data[:, :1]), data[:, :1].expand(-1, 3, -1, -1))
    assert grey.view(data.to(torch.bfloat16)).dtype == torch.float32
    assert grey.view(data).dtype == torch.float64


def test_another_size(picture_of, grey_levels):
    picture = known(picture_of(grey_levels), CPU)
    with pytest.raises(PartError, match=r"known.png' has 8x6 pixels, but the model makes 6x8"):
        picture.view(torch.zeros(1, 3, 6, 8))


def test_files_that_cannot_be_read(tmp_path, monkeypatch, noise):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PartError, match=f"no file 'none.png', as seen from '{tmp_path}'"):
        known("none.png", CPU)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(PartError, match=r"'text.png' is not a picture"):
        known("text.png", CPU)
    Image.fromarray(np.full((2, 2), 40000, np.uint16)).save("deep.png")
    with pytest.raises(PartError, match=r"'deep.png' does not have 8 bits a channel"):
        known("deep.png", CPU)
    Image.fromarray((noise(30, 30).numpy() * 255).astype(np.uint8)).save("whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:400])
    with pytest.raises(PartError, match=r"'half.png' is not a picture"):
        known("half.png", CPU)
