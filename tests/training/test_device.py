"""Training on another device: an autoencoder, a flow and its map, resumed in half precision."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from align.catalog.registry import load_catalog
from align.core.reward import Reward
from align.engine.offload import Offloaded
from align.runner.record import Record
from align.runner.session import run

pytestmark = pytest.mark.usefixtures("unpainted")
STEPS = 4
OPTIMISATION = """
[mode.optimisation]
batch = 8
grad_accumulation = 2
warmup = 1
learning_rate = 5e-3
ema_decay = 0.9
precision = "bfloat16"
"""
AUTOENCODER = """
[mode]
kind = "autoencode"
data = {{ path = "{data}" }}
net = {{ colours = 3, width = 8, levels = 1, latents = 4 }}
steps = {steps}
"""
FLOW = """
[model]
kind = "network"
net = {{ kind = "dit", width = 16, depth = 1, heads = 2, encoder_depth = 1 }}
autoencoder = "{out}/model.safetensors"
classes = ["dark", "light"]

[mode]
kind = "pretrain"
data = {{ path = "{data}" }}
steps = {steps}
"""
MAP = """
[model]
kind = "network"
weights = "{out}/model.safetensors"
guidance = 1.5

[mode]
kind = "distill"
data = {{ path = "{data}", latents = "{data}/latents" }}
steps = {steps}
"""


@pytest.fixture
def data(tmp_path):
    generator = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        place = tmp_path / "data/train" / name
        place.mkdir(parents=True)
        for k in range(16):
            array = generator.integers(low, low + 128, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(array).save(place / f"{k:02}.png")
    return tmp_path / "data"


def _losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_interrupted_training_on_a_device_goes_on_and_learns(
    data, tmp_path, monkeypatch, other_device
):
    catalog, before, step = load_catalog(), "", Record.step

    def broken(self, arm, index, info):
        step(self, arm, index, info)
        if index == 1:
            raise KeyboardInterrupt

    for name, mode in (("auto", AUTOENCODER), ("flow", FLOW), ("map", MAP)):
        out, file = tmp_path / name, tmp_path / f"{name}.toml"
        head = f'[run]\nsamples = 2\ndevice = "cuda"\nout = "{out}"\ncheckpoint_every = 2\n'
        file.write_text(head + mode.format(data=data, out=before, steps=STEPS) + OPTIMISATION)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt), other_device():
            patched.setattr(Record, "step", broken)
            run(file, progress=False, catalog=catalog)
        with other_device():
            run(file, progress=False, catalog=catalog)
        losses = _losses(out)
        assert len(losses) == STEPS
        assert np.mean(losses[-2:]) < np.mean(losses[:2])
        before = out


class _Judge(Reward):
    def __init__(self, net):
        self.net, self.there = net, []

    def score(self, data, prompts):
        self.there.append(torch.cuda.memory_allocated())
        return self.net(data).squeeze(1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_offloaded_reward_leaves_the_device():
    device = torch.device("cuda")
    net = torch.nn.Linear(1024, 1024 * 8).requires_grad_(False)
    net = torch.nn.Sequential(net, torch.nn.Linear(1024 * 8, 1)).requires_grad_(False).to(device)
    data = torch.randn(4, 1024, device=device, requires_grad=True)
    wanted = net(data).squeeze(1)
    (slope,) = torch.autograd.grad(wanted.sum(), data)
    judge = Offloaded.of(_Judge(net), device)
    del net
    empty = torch.cuda.memory_allocated()
    score = judge.score(data, [""] * 4)
    torch.testing.assert_close(score, wanted)
    torch.testing.assert_close(torch.autograd.grad(score.sum(), data)[0], slope)
    assert judge.inner.there[0] - empty > 30e6
    assert torch.cuda.memory_allocated() - empty < 1e6
