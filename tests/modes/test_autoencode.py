"""Training an autoencoder: it learns, and its latents leave at unit scale."""

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

from align.core.errors import PartError
from align.core.model import NoModel
from align.core.problem import Problem
from align.core.streams import Streams
from align.datasets.pictures import Pictures
from align.models.network import Network
from align.modes.autoencode import Autoencode
from align.networks.autoencoder import AutoencoderConfig
from align.networks.dit import DiTConfig
from align.networks.pixel_shuffle import PixelShuffleConfig
from align.training import reader, weights
from align.training.loop import Optimisation
from align.training.perceptual import Perceptual, perceptual_distance

PROBLEM, STREAMS = Problem(NoModel()), Streams(0, (0,))


@pytest.fixture
def mode(tmp_path):
    """8x8 pictures of four squares, each of a colour of its own."""
    place = tmp_path / "train/square"
    place.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for k in range(16):
        colours = generator.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        array = colours.repeat(4, 0).repeat(4, 1)
        Image.fromarray(array).save(place / f"{k:02}.png")
    return Autoencode(
        data=Pictures(path=str(tmp_path)),
        net=AutoencoderConfig(width=8, levels=1, latents=4),
        optimisation=Optimisation(batch=16, learning_rate=1e-2, warmup=5, ema_decay=0.8),
        steps=80,
        noise=0.05,
        sample_every=30,
    )


def _run(mode, steps=None):
    state, infos = mode.init(PROBLEM, STREAMS), []
    for index in range(steps or mode.steps):
        state, info = mode.step(PROBLEM, state, index, STREAMS)
        infos.append(info)
    return state, infos


def test_learns_and_leaves_latents_of_unit_scale(mode, tmp_path):
    state, infos = _run(mode)
    losses = [info.numbers["loss"] for info in infos]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert [k for k, info in enumerate(infos) if info.pictures is not None] == [29, 59, 79]
    shown = infos[-1].pictures
    assert shown.shape == (32, 3, 8, 8)
    pictures = state.reader.in_memory / 255
    # Pictures and their reconstructions alternate.
    for picture in shown[::2]:
        mirrored = torch.stack((pictures, pictures.flip(3)))
        assert (mirrored - picture).abs().amax((2, 3, 4)).min() < 1e-6
    dull = float((pictures - pictures.mean((0, 2, 3), keepdim=True)).abs().mean())
    assert float((shown[::2] - shown[1::2]).abs().mean()) < 0.4 * dull
    export = mode.export(PROBLEM, state)
    assert list(export.modules) == ["autoencoder"]
    net = export.modules["autoencoder"]
    assert net is state.training.ema
    assert export.about == {
        "autoencoder": attrs.asdict(mode.net) | {"kind": "upsample"},
        "shape": (4, 4, 4),
    }
    with torch.no_grad():
        latents = net.encode(pictures)
        assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
        assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-4)
        assert float((net.decode(latents) - pictures).abs().mean()) < 0.4 * dull
    # Scaling again changes nothing.
    before = net.std.clone()
    assert torch.allclose(mode.export(PROBLEM, state).modules["autoencoder"].std, before)
    path = tmp_path / "outer.safetensors"
    weights.write(path, export.modules, export.about, torch.float32)
    made = Network(net=DiTConfig(width=16, depth=1, heads=2), autoencoder=str(path)).build(
        torch.device("cpu")
    )
    assert made.shape == (4, 4, 4)
    assert torch.equal(made.autoencoder.std, net.std)
    assert mode.finish(PROBLEM, state) is None


def test_depends_on_nothing_but_its_seed(mode):
    torch.manual_seed(1)
    first = _run(mode, 2)[1][-1].numbers
    torch.manual_seed(2)
    torch.rand(5)
    assert _run(mode, 2)[1][-1].numbers == first
    state = mode.init(PROBLEM, Streams(9, (0,)))
    assert mode.step(PROBLEM, state, 0, Streams(9, (0,)))[1].numbers != first


def test_a_restored_state_goes_on_alike(mode):
    whole, infos = _run(mode, 4)
    half, _ = _run(mode, 2)
    fresh = mode.init(PROBLEM, STREAMS)
    mode.restore(fresh, mode.save(half))
    for index in (2, 3):
        fresh, info = mode.step(PROBLEM, fresh, index, STREAMS)
        assert info.numbers == infos[index].numbers
    for name in ("module", "ema"):
        one, two = (getattr(each.training, name).state_dict() for each in (whole, fresh))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_workers_make_no_difference_even_to_a_resumed_run(mode, monkeypatch):
    mode = attrs.evolve(mode, steps=4, optimisation=Optimisation(batch=8, grad_accumulation=2))
    state, infos = _run(mode)
    whole = mode.export(PROBLEM, state).modules["autoencoder"].state_dict()
    monkeypatch.setattr(reader, "IN_MEMORY", 0)
    helped = attrs.evolve(mode, data=attrs.evolve(mode.data, workers=2))
    half, found = _run(helped, 2)
    fresh = helped.init(PROBLEM, STREAMS)
    helped.restore(fresh, helped.save(half))
    for index in (2, 3):
        fresh, info = helped.step(PROBLEM, fresh, index, STREAMS)
        found.append(info)
    assert [info.numbers for info in found] == [info.numbers for info in infos]
    assert torch.equal(found[-1].pictures, infos[-1].pictures)
    parts = helped.export(PROBLEM, fresh).modules["autoencoder"].state_dict()
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_latents_alone_are_not_enough(mode):
    with pytest.raises(PartError, match="pictures are needed here, not only 'kept'; set 'path'"):
        attrs.evolve(mode, data=Pictures(latents="kept")).init(PROBLEM, STREAMS)


def _exported(mode, steps, path):
    """The autoencoder after some steps, which is also in a weights file at `path`."""
    state, _ = _run(mode, steps)
    export = mode.export(PROBLEM, state)
    weights.write(path, export.modules, export.about, torch.float32)
    return export.modules["autoencoder"]


def test_training_from_weights_starts_where_the_file_ended(mode, tmp_path):
    path = tmp_path / "start.safetensors"
    net = _exported(mode, 40, path)
    further = attrs.evolve(mode, weights=str(path), steps=2)
    start = further.init(PROBLEM, STREAMS).training.module
    for name, weight in net.named_parameters():
        assert torch.equal(start.get_parameter(name), weight), name
    # Latents are those that the decoder was trained on, before they were scaled.
    assert float(start.mean.abs().max()) == 0 and torch.equal(start.std, torch.ones(1, 4, 1, 1))
    assert not torch.allclose(net.std, torch.ones(4), atol=0.01)
    fresh = mode.step(PROBLEM, mode.init(PROBLEM, STREAMS), 0, STREAMS)[1].numbers["loss"]
    assert _run(further, 1)[1][0].numbers["loss"] < 0.8 * fresh


def test_weights_of_another_autoencoder_or_of_none_are_refused(mode, tmp_path):
    path = tmp_path / "start.safetensors"
    net = _exported(mode, 1, path)
    small = PixelShuffleConfig(encoder=(8,), decoder=(8, 8))
    with pytest.raises(PartError, match="holds an autoencoder with other options than 'net'"):
        attrs.evolve(mode, weights=str(path), net=small).init(PROBLEM, STREAMS)
    weights.write(path, {"autoencoder": net}, {"shape": (4, 4, 4)}, torch.float32)
    with pytest.raises(PartError, match="holds no autoencoder"):
        attrs.evolve(mode, weights=str(path)).init(PROBLEM, STREAMS)


def _edges(device):
    """Features for a test: differences to the left and upwards."""

    def maps(pictures):
        x64 = pictures.double()
        return [x64.diff(dim=2) + 0.1, x64.diff(dim=3) + 0.1]

    return maps


def test_perceptual_term_is_added_from_its_first_step(mode, monkeypatch):
    monkeypatch.setattr("align.training.perceptual.edges", _edges, raising=False)
    term = Perceptual(features="align.training.perceptual:edges", weight=2.0, from_step=2)
    with_term = attrs.evolve(mode, perceptual=term)
    _, plain = _run(mode, 4)
    _, infos = _run(with_term, 4)
    assert [info.numbers for info in infos[:2]] == [info.numbers for info in plain[:2]]
    # In step 2 the weights are still the same, so that the losses differ by the term.
    numbers, expected = infos[2].numbers, plain[2].numbers
    assert numbers["perceptual"] > 0.01
    loss = expected["loss"] + 2 * numbers["perceptual"]
    assert numbers["loss"] == pytest.approx(loss, rel=1e-6)
    assert infos[3].numbers["loss"] != pytest.approx(plain[3].numbers["loss"], rel=1e-3)
    state, _ = _run(with_term, 80)
    net, pictures = state.training.ema, state.reader.in_memory / 255
    with torch.no_grad():
        decoded = net.decode(net.encode(pictures))
        distance = perceptual_distance(_edges(None), decoded, pictures)
    assert float(distance.mean()) < 0.5 * numbers["perceptual"]
