"""Pictures of every shape and mode, as files are opened."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from align.io.images import opened

# Looked for, not imported: ImageReward imports names that transformers no longer has, and
# `align_image_reward.package.mended` lends them to it while it is used.
PACKAGES = (
    "ImageReward",
    "hpsv2",
    "clip",
    "imscore",
    "lpips",
    "dreamsim",
    "torchvision",
    "align_classifier",
    "prdc",
    "torch_fidelity",
    "align_clip",
    "align_hpsv2",
    "align_image_reward",
    "align_imscore",
    "align_likeness",
    "align_pickscore",
)
LACKING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if LACKING else []


def pytest_report_header():
    return f"parity: left out, for want of {', '.join(LACKING)}" if LACKING else None


SHAPES = {
    "square": (300, 300, "RGB"),
    "of its own size": (224, 224, "RGB"),
    "small": (64, 64, "RGB"),
    "wide": (300, 401, "RGB"),
    "tall": (411, 256, "RGB"),
    "grey": (256, 320, "L"),
    "transparent": (280, 240, "RGBA"),
    "palette": (240, 280, "P"),
}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Noise at many scales, as PNG in each mode and opened again: Picture by what it shows."""
    folder, generator, found = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), {}
    for name, (height, width, mode) in SHAPES.items():
        levels = np.zeros((height, width, 4))
        for cells in (2, 6, 20, 60):
            coarse = Image.fromarray(generator.integers(0, 256, (cells, cells, 4), dtype=np.uint8))
            levels += np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR)) / 4
        image = Image.fromarray(levels.astype(np.uint8)).convert(mode)
        image.save(folder / f"{name}.png")
        found[name] = opened(folder / f"{name}.png")
    return found


@pytest.fixture(scope="session")
def tiny():
    """The module that makes small checkpoints by the packages' own classes."""
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def agree(pictures):
    """Assert that a reward's scores are its package's own, to 1e-5 of their size."""

    def check(part, prompts=None):
        reward = part.build(torch.device("cpu"))
        prompts = prompts or ["a tabby cat, asleep"] * len(pictures)
        # The packages' own bugs with other modes are left out by giving them RGB.
        told = part.judged([one.pil for one in pictures.values()], prompts)
        ours = torch.cat(
            [
                reward.score(one.tensor[None], [prompt])
                for one, prompt in zip(pictures.values(), prompts, strict=True)
            ]
        )
        gap = dict(zip(pictures, (ours - told).abs() / told.abs().max(), strict=True))
        assert max(gap.values()) < 1e-5, gap
        # Scores that were all alike would agree with anything.
        assert told.std() > 0.01 * told.abs().max()
        return told

    return check
