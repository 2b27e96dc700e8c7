"""The autoencoder that turns channels into pixels: shapes, and where its work is done."""

import pytest
import torch
from torch import nn

from align.networks.autoencoder import Autoencoder
from align.networks.pixel_shuffle import PixelShuffleConfig

CONFIG = PixelShuffleConfig(colours=1, latents=3, encoder=(8, 16), decoder=(24, 16, 8), blocks=1)


@torch.no_grad()
@pytest.mark.parametrize("blocks", [0, 1, 2])
@pytest.mark.parametrize("encoder", [(8,), (8, 16), (8, 8, 16)])
def test_latents_have_the_side_halved_once_per_width(encoder, blocks):
    config = PixelShuffleConfig(
        colours=1, latents=3, encoder=encoder, decoder=(16, *reversed(encoder)), blocks=blocks
    )
    net, pictures = Autoencoder(config), torch.rand(2, 1, 16, 24)
    latents = net.encode(pictures)
    assert latents.shape == (2, 3, 16 // 2 ** len(encoder), 24 // 2 ** len(encoder))
    assert net.decode(latents).shape == pictures.shape


def test_default_size_has_two_million_weights():
    weights = Autoencoder(PixelShuffleConfig()).parameters()
    assert sum(weight.numel() for weight in weights) == 1_901_183


@torch.no_grad()
def test_only_the_last_convolution_sees_every_pixel():
    net, sides = Autoencoder(CONFIG), []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, args, out: sides.append(out.shape[-1]))
    net.decode(net.encode(torch.rand(1, 1, 16, 16)))
    assert sides[-1] == 16
    assert max(sides[:-1]) == 8


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"encoder": ()}, "'encoder' must be multiples of 8, at least one"),
        ({"encoder": (8, 12)}, "'encoder' must be multiples of 8"),
        ({"decoder": (16, 4, 8)}, "'decoder' must be multiples of 8"),
        ({"decoder": (16, 8)}, "'decoder' must have one entry more than 'encoder'"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        PixelShuffleConfig(**sizes)
