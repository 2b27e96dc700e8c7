"""The reward `lpips`: as the package lpips has it, on the same weights of torchvision's layout."""

import lpips
import pytest
import torch
from align_likeness import Lpips
from align_likeness.testing import small_lpips
from PIL import Image
from torchvision import models


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_distance_is_the_packages(net, tmp_path, monkeypatch):
    file = small_lpips(net, tmp_path)
    state = {
        name.removeprefix("features."): tensor
        for name, tensor in torch.load(file, weights_only=True).items()
        if name.startswith("features.")
    }
    make = models.alexnet if net == "alex" else models.vgg16

    def pretrained(pretrained=False):
        network = make()
        network.features.load_state_dict(state)
        return network

    monkeypatch.setattr(lpips.pretrained_networks.tv, make.__name__, pretrained)
    theirs = lpips.LPIPS(net=net, verbose=False)
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (3, 3, 72, 80), generator=generator).byte()
    Image.fromarray(levels[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    x = levels.float() / 255
    ours = Lpips(picture=str(tmp_path / "a.png"), net=net, weights=str(file))
    scores = ours.build(torch.device("cpu")).score(x, [""] * 3)
    with torch.no_grad():
        expected = theirs(x, x[:1].expand_as(x), normalize=True).flatten()
    torch.testing.assert_close(-scores, expected, rtol=1e-5, atol=1e-7)
    assert expected[1] > 1e-3
