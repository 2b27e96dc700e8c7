"""A study run by hand, and pictures for it."""

import attrs
import numpy as np
import pytest
from PIL import Image

from align.core.problem import Problem
from align.core.streams import Streams
from align.datasets.pictures import Pictures
from align.models.network_model import NetworkModel
from align.networks.autoencoder import Autoencoder, AutoencoderConfig


@pytest.fixture
def studied():
    """The last state and the findings of a study on so many samples."""

    def run(mode, problem, count, seed=0, last=None):
        problem = attrs.evolve(problem, cond=problem.model.encode([""] * count))
        streams = Streams(seed, tuple(range(count)))
        state = mode.init(problem, streams) if last is None else mode.restart(last)
        for index in range(mode.steps):
            state, _ = mode.step(problem, state, index, streams)
        assert mode.finish(problem, state) is None
        return state, mode.findings(state)

    return run


@pytest.fixture
def pictures(tmp_path):
    """Three pictures of each of two classes, all different, none its own mirror image."""
    for number, name in enumerate(("black", "white")):
        (tmp_path / "val" / name).mkdir(parents=True)
        for k in range(3):
            levels = np.full((8, 8, 3), 200 * number + 10 * k, np.uint8)
            levels[:, :4] += 20
            Image.fromarray(levels).save(tmp_path / "val" / name / f"{k}.png")
    return Pictures(path=str(tmp_path), split="val")


@pytest.fixture
def network():
    """A model of two classes that has no network yet but its autoencoder."""
    config = AutoencoderConfig(width=8, levels=1, latents=4)
    outer = Streams(0, ()).initialise(lambda: Autoencoder(config)).eval().requires_grad_(False)
    model = NetworkModel(shape=(4, 4, 4), classes=("black", "white"), autoencoder=outer)
    return Problem(model, cond=model.encode([""] * 4))
