"""The reward `classifier` on networks of torchvision: as torchvision itself has it."""

import pytest
import torch
from align_classifier import Classifier
from PIL import Image
from torchvision import models

from align import PartError, Streams

CPU = torch.device("cpu")


def picture(height, width):
    """A smooth picture (1, 3, H, W) of whole levels."""
    coarse = Streams(2, (0,)).uniform((3, 6, 6)).float()
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


def fails(**options):
    with pytest.raises(PartError) as caught:
        Classifier(**{"label": "0", **options}).build(CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_torchvision_says_what_it_says(tmp_path):
    network = Streams(0, (0,)).initialise(lambda: models.squeezenet1_1(num_classes=3)).eval()
    torch.save(network.state_dict(), tmp_path / "own.pt")
    options = {"model": "squeezenet1_1", "library": "torchvision", "label": "1"}
    reward = Classifier(**options, weights=str(tmp_path / "own.pt")).build(CPU)
    x = picture(280, 300)
    pil = Image.fromarray((x[0] * 255).byte().permute(1, 2, 0).numpy())
    view = models.get_model_weights("squeezenet1_1").DEFAULT.transforms()
    with torch.no_grad():
        wanted = network(view(pil)[None]).log_softmax(-1)[0, 1]
    # Theirs rounds the resized picture to whole levels.
    assert float(reward.score(x, [""])) == pytest.approx(float(wanted), abs=0.005)


def test_torchvision_models_and_weights_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    options = {"library": "torchvision", "offline": True}
    assert "did you mean 'resnet50'?" in fails(**options, model="resnett50")
    told = fails(**options, model="resnet50", revision="IMAGENET1K_V9")
    assert "'resnet50' has no weights 'IMAGENET1K_V9'; known are" in told
    assert "resnet50-11ad3fa6.pth' is not there, and 'offline' is set" in fails(
        **options, model="resnet50"
    )
    (tmp_path / "no.pt").write_bytes(b"no weights")
    assert "no.pt" in fails(**options, model="resnet18", weights=str(tmp_path / "no.pt"))
    assert "no file" in fails(**options, model="resnet18", weights=str(tmp_path / "none.pt"))
    assert Classifier(**options, model="resnet50", label="0").files_read() is None
