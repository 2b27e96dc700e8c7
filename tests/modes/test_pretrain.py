"""Training a flow: it learns a trivial data set, by class, and ends in weights."""

import math

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

from align.core.errors import PartError
from align.core.path import PATHS
from align.core.problem import Problem
from align.core.streams import Streams
from align.datasets.pictures import Pictures
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.models.network import load
from align.models.network_model import NetworkModel
from align.modes.pretrain import Pretrain
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.networks.dit import DiT, DiTConfig
from align.networks.unet import UNetConfig
from align.testing.worlds import line
from align.training import weights
from align.training.loop import Optimisation

SHAPE, CLASSES = (4, 4, 4), ("black", "white")
STREAMS = Streams(0, (0, 1, 2, 3))


def _problem(**parts):
    def made():
        config = DiTConfig(width=16, depth=2, heads=2, patch=2, encoder_depth=1)
        flow = DiT(config, SHAPE, 2, "flow")
        auto = Autoencoder(AutoencoderConfig(width=8, levels=1, latents=4))
        return flow, auto

    flow, auto = Streams(0, ()).initialise(made)
    flow.requires_grad_(False), auto.requires_grad_(False)
    # One latent for black and one for white, far apart.
    auto.mean.fill_(-0.3), auto.std.fill_(0.2)
    model = NetworkModel(shape=SHAPE, classes=CLASSES, flow=flow, autoencoder=auto, **parts)
    return Problem(GuardedModel(model, "network", Meter(), 64))


@pytest.fixture
def mode(tmp_path):
    """One black and one white picture."""
    for name, level in (("black", 0), ("white", 255)):
        (tmp_path / "train" / name).mkdir(parents=True)
        picture = np.full((8, 8, 3), level, dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "train" / name / "0.png")
    return Pretrain(
        data=Pictures(path=str(tmp_path), mirror=False),
        optimisation=Optimisation(batch=16, learning_rate=1e-2, warmup=10, ema_decay=0.9),
        steps=200,
        dropout=0.1,
        sample_every=80,
    )


def _run(mode, problem, first=0, last=None, state=None):
    state, infos = state or mode.init(problem, STREAMS), []
    for index in range(first, last or mode.steps):
        state, info = mode.step(problem, state, index, STREAMS)
        infos.append(info)
    return state, infos


def test_learns_where_each_class_lies(mode, tmp_path):
    problem = _problem()
    state, infos = _run(mode, problem)
    losses = [info.numbers["loss"] for info in infos]
    assert np.mean(losses[-10:]) < 0.3 * losses[0]
    assert [k for k, info in enumerate(infos) if info.pictures is not None] == [79, 159, 199]
    assert infos[-1].pictures.shape == (4, 3, 8, 8)
    assert mode.finish(problem, state) is None

    export = mode.export(problem, state)
    path = tmp_path / "model.safetensors"
    weights.write(path, export.modules, export.about, torch.float32)
    model = load(path, torch.device("cpu"))
    average = state.training.ema.state_dict()
    assert all(torch.equal(v, average[k]) for k, v in model.flow.state_dict().items())
    assert model.classes == CLASSES
    # At the start, velocities of two classes differ as their pictures do.
    noise = STREAMS.numbered(0, 16).fold_in("test").normal(SHAPE).float()
    black, white = (model.velocity(noise, torch.zeros(16), model.encode([n] * 16)) for n in CLASSES)
    apart = state.examples.states[0, 1] - state.examples.states[0, 0]
    found = (white - black).mean(0)
    cosine = (found * apart).sum() / (found.norm() * apart.norm())
    assert float(cosine) > 0.7
    assert 0.4 < float(found.norm() / apart.norm()) < 1.6


@pytest.mark.parametrize("path", PATHS)
def test_target_is_the_path_s_rate(mode, path, tmp_path):
    """A new flow is silent, so its loss is the mean square of the rate."""
    problem = _problem(path=PATHS[path])
    state = mode.init(problem, STREAMS)
    fresh = STREAMS.numbered(0, 16)
    x1, _ = state.examples.rows(fresh, 0.1)
    noise = fresh.fold_in("noise").normal(SHAPE).float()
    _, info = mode.step(problem, state, 0, STREAMS)
    rate = x1 - noise
    if path == "trigonometric":
        angle = math.pi / 2 * fresh.fold_in("time").uniform(())[:, None, None, None]
        rate = math.pi / 2 * (angle.cos() * x1 - angle.sin() * noise)
    assert info.numbers["loss"] == pytest.approx(float(rate.square().mean()), rel=1e-5)
    export, file = mode.export(problem, state), tmp_path / "m.safetensors"
    weights.write(file, export.modules, export.about, torch.float32)
    assert load(file, torch.device("cpu")).path == PATHS[path]


def test_classes_are_dropped_and_guidance_is_not_trained(mode):
    seen = []

    def labels(module, args):
        seen.append(args[5].clone())

    plain, guided = _problem(), _problem(guidance=3.0)
    numbers = []
    for problem in (plain, guided):
        state = mode.init(problem, STREAMS)
        state.training.module.register_forward_pre_hook(labels)
        numbers.append([mode.step(problem, state, k, STREAMS)[1].numbers for k in range(6)])
    assert numbers[0] == numbers[1]
    assert {len(each) for each in seen} == {16}
    share = float((torch.cat(seen) == 2).float().mean())
    assert 0 < share < 0.3
    assert set(torch.cat(seen).tolist()) == {0, 1, 2}


def test_a_restored_state_goes_on_in_the_same_bits(mode):
    whole, infos = _run(mode, _problem(), last=4)
    half, _ = _run(mode, _problem(), last=2)
    problem = _problem()
    fresh = mode.init(problem, STREAMS)
    mode.restore(fresh, mode.save(half))
    fresh, later = _run(mode, problem, 2, 4, fresh)
    assert [info.numbers for info in later] == [info.numbers for info in infos[2:]]
    for name in ("module", "ema"):
        one, two = (getattr(each.training, name).state_dict() for each in (whole, fresh))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_wrong_pretraining_is_refused(mode):
    with pytest.raises(PartError, match="only a model made of networks"):
        mode.init(Problem(line()[0]), STREAMS)
    without = attrs.evolve(_problem().model.inner, flow=None)
    with pytest.raises(PartError, match="hold no flow"):
        mode.init(Problem(without), STREAMS)


@pytest.fixture
def held_out_mode(mode, tmp_path):
    """Two grey pictures are held out, on the wrong side for their classes."""
    for name, level in (("black", 200), ("white", 50)):
        (tmp_path / "val" / name).mkdir(parents=True)
        picture = np.full((8, 8, 3), level, dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "val" / name / "0.png")
    held_out = attrs.evolve(mode.data, split="val")
    return attrs.evolve(mode, held_out=held_out, held_out_rows=150, sample_every=3)


def test_losses_on_held_out_and_trained_on_data_are_recorded(mode, held_out_mode):
    problem = _problem()
    state, infos = _run(held_out_mode, problem, last=8)
    # Seldom measured, a run ends where it would.
    _, others = _run(attrs.evolve(held_out_mode, sample_every=97), problem, 8, None, state)
    losses = {k: i.numbers for k, i in enumerate(infos + others) if "held_out" in i.numbers}
    assert list(losses) == [2, 5, 96, 193, 199]
    first, last = losses[2], losses[199]
    # What was learnt helps on data that were trained on, and not on the others.
    assert last["trained_on"] < 0.4 * first["trained_on"]
    assert last["held_out"] > 1.5 * last["trained_on"]
    # Nothing else depends on it.
    _, plain = _run(mode, _problem(), last=8)
    for info, other in zip(infos, plain, strict=True):
        assert {k: v for k, v in info.numbers.items() if k in other.numbers} == other.numbers


def test_held_out_loss_is_that_of_the_averaged_weights_on_the_same_rows(held_out_mode):
    state, infos = _run(held_out_mode, _problem(guidance=3.0), last=3)
    rows = STREAMS.fold_in("held_out").numbered(0, 150)
    x1, label = state.held_out.rows(rows, 0.0)
    noise = rows.fold_in("noise").normal(SHAPE).float()
    t = rows.fold_in("time").uniform(()).float()
    x = torch.lerp(noise, x1, t[:, None, None, None])
    with torch.no_grad():
        velocity = state.training.ema(x, t, t, 0 * t, 0 * x, label)
    expected = float((velocity - (x1 - noise)).square().mean())
    assert infos[2].numbers["held_out"] == pytest.approx(expected, rel=1e-4)
    assert set(label.tolist()) == {0, 1}


def test_unet_learns_where_each_class_lies(mode, tmp_path):
    spec = UNetConfig(widths=(8, 16), blocks=1)
    flow = Streams(0, ()).initialise(lambda: spec.build(SHAPE, 2, "flow"))
    model = attrs.evolve(_problem().model.inner, flow=flow.requires_grad_(False))
    problem = Problem(GuardedModel(model, "network", Meter(), 64))
    state, infos = _run(attrs.evolve(mode, steps=100), problem)
    losses = [info.numbers["loss"] for info in infos]
    assert np.mean(losses[-10:]) < 0.3 * losses[0]
    export, path = mode.export(problem, state), tmp_path / "model.safetensors"
    weights.write(path, export.modules, export.about, torch.float32)
    loaded = load(path, torch.device("cpu")).flow
    assert (loaded.config, loaded.role) == (spec, "flow")
    average = state.training.ema.state_dict()
    assert all(torch.equal(v, average[k]) for k, v in loaded.state_dict().items())
