"""Operations, counted as torch's own counter does."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from align.catalog.registry import load_catalog
from align.core.network import LADDER
from align.engine.flops import FlopCounter, counted
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.networks.dit import DiTConfig
from align.networks.mlp import MLPConfig
from align.networks.pixel_shuffle import PixelShuffleConfig
from align.networks.unet import UNetConfig
from align.testing.checks.network import Trial

NETWORKS = {
    "dit": Trial(DiTConfig(width=16, depth=2, heads=2, encoder_depth=1), (3, 8, 4)),
    "mlp": Trial(MLPConfig(width=8, depth=2), (2,)),
    "unet": Trial(UNetConfig(widths=(8, 16), blocks=1, heads=2), (3, 8, 4)),
}
AUTOENCODERS = {
    "pixel_shuffle": PixelShuffleConfig(colours=1, encoder=(8,), decoder=(16, 8), blocks=1),
    "upsample": AutoencoderConfig(colours=1, width=8, levels=1),
}


def total(counter):
    return counter.total if isinstance(counter, FlopCounter) else counter.get_total_flops()


def counts_alike(module, call, x):
    """Whether both counters say the same of a call and its way back, and leave the same bits."""
    results = []
    for counting in (counted(), FlopCounterMode(display=False)):
        module.zero_grad()
        leaf = x.clone().requires_grad_()
        with counting as counter:
            result = call(leaf)
            result.square().sum().backward()
        leaves = [leaf, *module.parameters()]
        results.append((total(counter), [result, *(p.grad for p in leaves if p.grad is not None)]))
    (ours, here), (theirs, there) = results
    assert ours > 0
    assert len(here) > 3
    return ours == theirs and all(map(torch.equal, here, there))


@pytest.mark.parametrize("kind", sorted(NETWORKS))
def test_counter_says_of_every_network_what_torch_says(kind):
    trial = NETWORKS[kind]
    y, *others = trial.inputs(3).values()
    net = trial.network(LADDER[-1]).requires_grad_(True)
    assert counts_alike(net, lambda y: net(y, *others), y)


@pytest.mark.parametrize("kind", sorted(AUTOENCODERS))
def test_counter_says_of_every_autoencoder_what_torch_says(kind):
    net = Autoencoder(AUTOENCODERS[kind]).eval()
    pictures = torch.rand(2, 1, 8, 8)
    assert counts_alike(net, lambda pictures: net.decode(net.encode(pictures)), pictures)


def test_every_network_and_autoencoder_is_counted_here():
    parts = load_catalog(entry_points=()).parts
    assert set(NETWORKS) == set(parts["network"])
    assert set(AUTOENCODERS) == set(parts["autoencoder"])


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_counter_says_of_attention_and_convolutions_what_torch_says(mode):
    linear, convolution = nn.Linear(8, 24), nn.Conv2d(3, 4, 3)

    def computed():
        rows = linear(torch.ones(2, 5, 8)).unflatten(-1, (3, 2, 4)).movedim(2, 0).transpose(2, 3)
        return nn.functional.scaled_dot_product_attention(*rows), convolution(torch.ones(3, 6, 6))

    with mode():
        with counted() as ours:
            computed()
        with FlopCounterMode(display=False) as theirs:
            computed()
    assert total(ours) == total(theirs) > 0


def test_counters_within_each_other_count_alike():
    net, x = nn.Linear(5, 7, bias=False), torch.ones(4, 5)
    with counted() as outer:
        net(x)
        with counted() as inner:
            net(x)
    assert (outer.total, inner.total) == (2 * 4 * 2 * 5 * 7, 4 * 2 * 5 * 7)


def test_what_is_compiled_is_counted_as_it_was_written():
    weights, x = torch.ones(5, 7), torch.ones(4, 5)
    other = torch.compile(lambda x: x @ weights, backend=lambda graph, _: lambda *_: (x,))
    with counted() as counter:
        assert torch.equal(other(x), x @ weights)
    assert counter.total == 2 * 4 * 2 * 5 * 7
    assert torch.equal(other(x), x)


def test_counting_does_not_import_the_compiler():
    code = (
        "import sys, torch\n"
        "from align.engine.flops import counted\n"
        "net = torch.nn.TransformerEncoderLayer(8, 2, 16)\n"
        "with counted() as counter:\n"
        "    net(torch.ones(2, 5, 8)).sum().backward()\n"
        "assert counter.total\n"
        "assert not {'torch._dynamo', 'sympy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
