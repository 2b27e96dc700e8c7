"""The network of Fréchet inception distances."""

import pytest
import torch
import torch.nn.functional as F

from align.core.errors import PartError
from align.metrics.inception import Inception, InceptionV3, Mixed, resized_as_tensorflow
from align.testing.fake_device import fake_device
from tests.metrics.networks import inception_file, inception_state, pictures

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    with torch.device("meta"):
        net = InceptionV3()
    net.load_state_dict(inception_state(), assign=True)
    return net.eval().requires_grad_(False)


def convolved(layer, x):
    """A layer written from its formula, padded so that pictures keep their size."""
    weight = layer.conv.weight
    x = F.conv2d(x, weight, padding=(weight.shape[2] // 2, weight.shape[3] // 2))
    shape = (-1, 1, 1)
    mean, var, scale, shift = (
        t.view(shape)
        for t in (layer.bn.running_mean, layer.bn.running_var, layer.bn.weight, layer.bn.bias)
    )
    return ((x - mean) / (var + 1e-3).sqrt() * scale + shift).clamp_min(0)


@pytest.mark.parametrize(("name", "pool"), [("Mixed_7b", "average"), ("Mixed_7c", "max")])
def test_last_blocks_pool_as_tensorflow_does(network, name, pool):
    block = network.get_submodule(name)
    assert isinstance(block, Mixed)
    x = torch.linspace(-1, 1, block.branch_pool.conv.weight.shape[1] * 16).view(1, -1, 4, 4).sin()
    around = F.pad(x, (1, 1, 1, 1), value=torch.nan).unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)
    pooled = around.nanmean(4) if pool == "average" else around.nan_to_num(-torch.inf).amax(4)
    short = convolved(block.branch3x3_1, x)
    halves = [convolved(layer, short) for layer in (block.branch3x3_2a, block.branch3x3_2b)]
    result = block(x)
    torch.testing.assert_close(result[:, :320], convolved(block.branch1x1, x))
    torch.testing.assert_close(result[:, 320:1088], torch.cat(halves, 1))
    torch.testing.assert_close(result[:, -192:], convolved(block.branch_pool, pooled))


def test_pictures_are_resized_with_corners_in_place_and_nothing_smoothed():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    doubled = resized_as_tensorflow(x, 6)[0, 0]
    assert doubled[:, 0].tolist() == pytest.approx([0, 1, 2, 3, 3, 3])
    assert doubled[0].tolist() == [0, 0.5, 1, 1.5, 2, 2]
    halved = resized_as_tensorflow(torch.arange(16.0).view(1, 1, 4, 4), 2)[0, 0]
    assert halved.tolist() == [[0, 2], [8, 10]]


def test_a_file_as_torch_fidelity_publishes_it_is_read(tmp_path, network):
    path = inception_file(tmp_path)
    looked = Inception(weights=str(tmp_path)).build(CPU).extract(pictures(1))
    assert looked.pooled.shape == (1, 2048)
    assert looked.spatial.shape == (1, 7 * 17 * 17)
    torch.testing.assert_close(looked.logits, looked.pooled @ network.fc.weight.T)
    state = torch.load(path)
    state["fc.weight"], state["fc.bias"] = state["fc.weight"][:1000], state["fc.bias"][:1000]
    torch.save(state, path)
    with pytest.raises(PartError, match=r"2 of another shape \(fc.weight \(1000, 2048\)"):
        Inception(weights=str(path)).build(CPU)


def test_without_weights_torchs_cache_is_asked_and_the_cure_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(PartError, match=r"features 'inception': weights: neither .*curl -LO http"):
        Inception().build(CPU)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    inception_file(folder)
    assert Inception().build(CPU).network.fc.weight.shape == (1008, 2048)


def test_pictures_are_resized_on_their_own_device():
    x = pictures(2, side=20)
    with fake_device() as device:
        there = resized_as_tensorflow(x.to(device), 33).to(CPU)
    torch.testing.assert_close(there, resized_as_tensorflow(x, 33))
