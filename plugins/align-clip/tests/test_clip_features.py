"""Features of CLIP's picture tower."""

import numpy as np
import pytest
import torch
from align_clip import ClipImage
from align_clip.testing import picture_features, small_folder, small_state
from PIL import Image

from align import PartError, Streams
from align.io.images import CLIP_MEAN, CLIP_STD

CPU = torch.device("cpu")


def test_features_are_those_of_a_second_implementation_on_pictures_that_pil_resized(tmp_path):
    state = small_state()
    levels = (Streams(0, (0,)).uniform((3, 48, 90)) * 255).round().byte()
    pil = Image.fromarray(levels[0].permute(1, 2, 0).numpy()).resize((60, 32), Image.BICUBIC)
    pixels = np.asarray(pil.crop((14, 0, 46, 32))) / 255
    pixels = torch.from_numpy((pixels - np.array(CLIP_MEAN)) / np.array(CLIP_STD)).float()
    expected = picture_features(
        state, pixels.permute(2, 0, 1)[None], heads=2, activation="quick_gelu"
    )
    folder = small_folder(state, tmp_path, "quick_gelu")
    seen = ClipImage(weights=str(folder)).build(CPU).extract(levels.float() / 255)
    torch.testing.assert_close(seen.pooled, expected, atol=1e-5, rtol=1e-5)


def test_a_file_that_does_not_say_its_activation_is_told_with_the_option(tmp_path):
    torch.save(small_state(), tmp_path / "clip.pt")
    with pytest.raises(
        PartError, match=r"features 'clip_image': .*; set activation = 'quick_gelu'"
    ):
        ClipImage(weights=str(tmp_path / "clip.pt")).build(CPU)
