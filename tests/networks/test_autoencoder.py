"""The autoencoder: shapes, and a scale of latents that decoding undoes."""

import pytest
import torch

from align.networks.autoencoder import Autoencoder, AutoencoderConfig


def _net(**sizes):
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(width=8, **sizes)).eval()


@pytest.mark.parametrize(("colours", "levels", "latents"), [(3, 1, 4), (1, 2, 3), (3, 3, 16)])
def test_shapes(colours, levels, latents):
    net = _net(colours=colours, levels=levels, latents=latents)
    pictures = torch.rand(2, colours, 16, 24)
    with torch.no_grad():
        found = net.encode(pictures)
        assert found.shape == (2, latents, 16 // 2**levels, 24 // 2**levels)
        assert net.decode(found).shape == pictures.shape


@torch.no_grad()
def test_the_scale_of_latents_is_undone_by_decoding():
    net = _net(levels=1, latents=4)
    pictures = torch.rand(6, 3, 8, 8)
    plain, remade = net.encode(pictures), net.decode(net.encode(pictures))
    net.mean.copy_(plain.mean((0, 2, 3), keepdim=True))
    net.std.copy_(plain.std((0, 2, 3), keepdim=True))
    scaled = net.encode(pictures)
    assert torch.allclose(scaled.mean((0, 2, 3)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(scaled.std((0, 2, 3)), torch.ones(4), atol=1e-5)
    assert not torch.allclose(scaled, plain, atol=0.1)
    assert torch.allclose(net.decode(scaled), remade, atol=1e-5)


@torch.no_grad()
def test_pictures_run_from_0_to_1_outside_and_from_minus_1_to_1_inside():
    net, seen = _net(levels=1, latents=4), []
    net.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    latents = net.encode(torch.tensor([0.0, 0.5, 1.0])[:, None, None, None].expand(3, 3, 8, 8))
    assert [float(row.mean()) for row in seen[0]] == [-1, 0, 1]
    # The decoder takes channels last, and sums in another order then.
    assert torch.allclose(net.decode(latents), (net.decoder(latents) + 1) / 2, atol=1e-6)


def test_the_scale_travels_with_the_weights():
    first, second = _net(levels=1, latents=4), _net(levels=1, latents=4)
    first.mean.fill_(0.5), first.std.fill_(2)
    second.load_state_dict(first.state_dict())
    assert float(second.mean.mean()) == 0.5
    assert float(second.std.mean()) == 2
    assert not second.mean.requires_grad
