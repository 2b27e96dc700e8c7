"""The reward `imagenet`."""

import copy
import math
import subprocess
import sys
from importlib.metadata import entry_points

import align_imagenet
import attrs
import pluggy
import pytest
import torch
from align_imagenet import ImageNet
from align_imagenet.reward import ClassScore

from align import ContractError, PromptError
from align.catalog import hookspecs

CPU = torch.device("cpu")
NETWORKS = ("efficientnet_lite0", "squeezenet")


def pictures(count, side=64, seed=0):
    """Coloured noise at several scales: (count, 3, side, side) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, side, side)
    for cells in (2, 4, 8, 16):
        noise = torch.randn(count, 3, cells, cells, generator=generator)
        total += torch.nn.functional.interpolate(noise, size=(side, side), mode="bilinear")
    return (0.5 + 0.15 * total).clamp(0, 1)


def build(network="efficientnet_lite0", label="tabby cat", size=64):
    return ImageNet(label=label, network=network, size=size).build(CPU)


@pytest.mark.parametrize("network", NETWORKS)
def test_scores_are_log_probabilities(network):
    data, reward = pictures(3), build(network)
    score = reward.score(data, [""] * 3)
    assert score.dtype == torch.float32
    torch.testing.assert_close(score, reward.network(data).log_softmax(-1)[:, 281])
    assert (score < 0).all()
    other = build(network, label="goldfish").score(data, [""] * 3)
    torch.testing.assert_close(other, reward.network(data).log_softmax(-1)[:, 1])


def test_without_a_label_the_prompt_names_the_class():
    data, reward = pictures(3), build(label="")
    assert ImageNet().needs_prompt and not ImageNet(label="tabby cat").needs_prompt
    score = reward.score(data, ["A photograph of a goldfish.", "tabby cat", "a lesser panda"])
    wanted = [build(label=name).score(data, [""] * 3) for name in ("goldfish", "tabby cat", "387")]
    torch.testing.assert_close(score, torch.stack(wanted).diagonal())
    with pytest.raises(PromptError, match="'an animal' names none of the classes"):
        reward.score(data[:1], ["an animal"])
    with pytest.raises(PromptError, match="'a crane': 'crane' names 2 ImageNet classes"):
        reward.score(data[:1], ["a crane"])


@pytest.mark.parametrize("network", NETWORKS)
def test_a_row_depends_on_itself_alone(network):
    data, reward = pictures(4), build(network, size=96)
    whole = reward.score(data, [""] * 4)
    single = torch.cat([reward.score(data[i : i + 1], [""]) for i in range(4)])
    torch.testing.assert_close(whole, single, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_gradient_agrees_with_finite_differences(network):
    reward = build(network, size=96)
    exact = ClassScore(
        network=copy.deepcopy(reward.network).double(), index=reward.index, size=reward.size
    )
    generator = torch.Generator().manual_seed(1)
    x = pictures(2).double().requires_grad_()
    way = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(exact.score(x, ["", ""]).sum(), x)
    h = 1e-8  # small enough that hardly any ReLU changes sides
    with torch.no_grad():
        ahead, behind = (exact.score(x + sign * h * way, ["", ""]) for sign in (1, -1))
    slopes = (ahead - behind) / (2 * h)
    torch.testing.assert_close((gradient * way).sum((1, 2, 3)), slopes, rtol=1e-4, atol=1e-6)


def test_the_gradient_reaches_pixels_out_of_range_and_no_parameter():
    reward = build()
    x = (pictures(1) * 3 - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(x, [""]).sum(), x)
    outside = (x < 0) | (x > 1)
    assert outside.any()
    assert (gradient[outside] != 0).float().mean() > 0.99
    assert not any(p.requires_grad or p.grad is not None for p in reward.network.parameters())


def test_climbing_the_gradient_raises_the_score():
    reward, x = build(), pictures(1)
    first = reward.score(x, [""]).item()
    for _ in range(10):
        x = x.requires_grad_()
        (gradient,) = torch.autograd.grad(reward.score(x, [""]).sum(), x)
        x = x.detach() + 0.01 * gradient / gradient.abs().max()
    assert reward.score(x, [""]).item() > first + 1


@pytest.mark.parametrize("network", NETWORKS)
def test_grey_pictures_score_as_colour_with_equal_channels(network):
    grey, reward = pictures(2)[:, :1], build(network)
    as_colour = reward.score(grey.repeat(1, 3, 1, 1), ["", ""])
    torch.testing.assert_close(reward.score(grey, ["", ""]), as_colour)


def test_half_precision_pictures_are_scored_in_float32():
    data, reward = pictures(2), build()
    score = reward.score(data.bfloat16(), ["", ""])
    assert score.dtype == torch.float32
    torch.testing.assert_close(score, reward.score(data.bfloat16().float(), ["", ""]))


@pytest.mark.parametrize("shape", [(2, 4, 64, 64), (3, 64, 64), (2, 10)])
def test_other_data_are_refused(shape):
    with pytest.raises(ContractError, match="pictures must be"):
        build().score(torch.zeros(shape), [""] * shape[0])


def test_options_are_checked_where_they_are_written():
    with pytest.raises(ValueError, match=r"'label': no ImageNet class .*'tabbi'.* 'tabby'"):
        ImageNet(label="tabbi")
    with pytest.raises(ValueError, match="'label' must be a string, got 281"):
        ImageNet(label=281)
    with pytest.raises(ValueError, match=r"'network' must be 'efficientnet_lite0' or 'squeezenet'"):
        ImageNet(label="tabby", network="mobilenet")
    for size in (0, 31, 100, -32):
        with pytest.raises(ValueError, match="'size' must be 32, 64, 96"):
            ImageNet(label="tabby", size=size)
    assert ImageNet.range == (-math.inf, 0.0)
    assert all(field.metadata["help"] for field in attrs.fields(ImageNet))


def test_the_entry_module_is_light_and_complete():
    code = (
        "import sys, align_imagenet\n"
        "heavy = {'torchvision', 'transformers', 'timm', 'safetensors', 'align_imagenet.loading',\n"
        "         'align_imagenet.efficientnet_lite', 'align_imagenet.mobilenet',\n"
        "         'align_imagenet.squeezenet'}\n"
        "align_imagenet.ImageNet(label='tabby cat')\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    (point,) = entry_points(group="align", name="imagenet")
    assert point.load() is align_imagenet
    manager = pluggy.PluginManager("align")
    manager.add_hookspecs(hookspecs)
    manager.register(align_imagenet)
    manager.check_pending()
    kinds = [
        cls.kind
        for part in (manager.hook.align_rewards, manager.hook.align_metrics)
        for brought in part()
        for cls in brought
    ]
    assert kinds == ["imagenet", "frechet", "diversity"]
