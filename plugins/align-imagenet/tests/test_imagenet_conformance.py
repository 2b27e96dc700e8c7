"""The plugin's parts, by the checks of their contracts."""

import atexit
import functools
import importlib.util
import tempfile
from pathlib import Path

import pytest
import torch
from align_imagenet import KL, Diversity, Frechet, ImageNet, ImageNetModel, MobileNet
from align_imagenet.testing import HEADS, save_autoencoder, tensors

from align.testing import conformance

DIFFUSERS = importlib.util.find_spec("diffusers") is not None
latents = pytest.mark.skipif(not DIFFUSERS, reason="diffusers is not installed")
FOLDER = tempfile.TemporaryDirectory()
atexit.register(FOLDER.cleanup)
UNTRAINED = dict.fromkeys(
    ("jump_semigroup", "posterior_semigroup", "posterior_tangent"), "random weights are no map"
)


@functools.cache
def autoencoder():
    """Folder of a tiny autoencoder; empty where diffusers, which is to read it, is missing."""
    folder = Path(FOLDER.name) / "vae"
    folder.mkdir()
    if DIFFUSERS:
        save_autoencoder(folder)
    return folder


def part(layout, **options):
    """A tiny model of random weights."""
    weights = Path(FOLDER.name) / f"{layout}.pt"
    torch.save(tensors(layout, depth=2), weights)
    sizes = {"heads": HEADS, "encoder_depth": 1, "vae": str(autoencoder())}
    return ImageNetModel(layout=layout, weights=str(weights), prompt="tabby", **sizes, **options)


test_imagenet = conformance("reward", lambda: ImageNet(label="tabby cat"))
test_imagenet_by_squeezenet = conformance(
    "reward", lambda: ImageNet(label="tabby cat", network="squeezenet")
)

test_frechet = conformance("metric", Frechet)
test_diversity = conformance("metric", Diversity)
test_mobilenet = conformance("features", MobileNet)

test_kl = latents(conformance("autoencoder", lambda: KL(widths=(8, 8), depth=1, groups=2)))
test_mfm = latents(conformance("model", lambda: part("mfm"), expect_fail=UNTRAINED))
test_dmf = latents(
    conformance(
        "model",
        lambda: part("dmf"),
        expect_fail={"jump_semigroup": UNTRAINED["jump_semigroup"]},
    )
)
test_guided_sit = latents(conformance("model", lambda: part("sit", guidance=2.0)))
