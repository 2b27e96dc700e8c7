"""The reward `classifier`: as the model's own processor and network have it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from align_classifier import Classifier
from align_classifier.known import Preprocessing, numbered
from align_classifier.testing import LABELS, small_classifier
from PIL import Image

from align import ContractError, PartError, Streams

CPU, KINDS = torch.device("cpu"), ("vit", "resnet", "mobilenet")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: str(small_classifier(kind, tmp_path_factory.mktemp(kind))) for kind in KINDS}


@pytest.fixture
def folder(tmp_path):
    return small_classifier("vit", tmp_path / "vit")


def picture(height, width):
    """A smooth picture (1, 3, H, W) of whole levels."""
    coarse = Streams(2, (0,)).uniform((3, 6, 6)).float()
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


@pytest.mark.parametrize("size", [(48, 48), (40, 60), (70, 44)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_the_model_says(folders, kind, size):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    x, place = picture(*size), folders[kind]
    levels = (x[0] * 255).byte().permute(1, 2, 0).numpy()
    processor = AutoImageProcessor.from_pretrained(place)
    network = AutoModelForImageClassification.from_pretrained(place).eval()
    pixels = torch.as_tensor(np.stack(processor(Image.fromarray(levels))["pixel_values"]))
    with torch.no_grad():
        wanted = network(pixels).logits.log_softmax(-1)[0]
    for number in LABELS:
        reward = Classifier(model=place, label=str(number)).build(CPU)
        # Theirs rounds the resized picture to whole levels.
        assert float(reward.score(x, [""])) == pytest.approx(float(wanted[number]), abs=0.02)
    assert wanted.max() - wanted.min() > 0.2


def test_scores_agree_and_carry_a_gradient(folders):
    x = picture(40, 40).requires_grad_()
    found = {}
    for how in ("log_probability", "log_odds", "probability"):
        spec = Classifier(model=folders["vit"], label="goldfish", score=how)
        score = spec.build(CPU).score(x, [""])
        (gradient,) = torch.autograd.grad(score.sum(), x)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
        low, high = spec.range
        found[how] = float(score.detach())
        assert low <= found[how] <= high
    p = found["probability"]
    assert found["log_probability"] == pytest.approx(np.log(p), rel=1e-5)
    assert found["log_odds"] == pytest.approx(np.log(p / (1 - p)), rel=1e-4)


def test_nothing_is_trained_and_the_generator_stays(folders):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    reward = Classifier(model=folders["vit"], label="0").build(CPU)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not any(weight.requires_grad for weight in reward.known.network.parameters())
    assert not reward.known.network.training


@pytest.mark.parametrize(
    ("label", "number"),
    [
        ("2", 2),
        ("Goldfish", 2),
        ("tabby_cat", 0),
        ("tabby, tabby cat", 0),
        ("dog", 1),
        ("hot dog", 3),
    ],
)
def test_labels(label, number):
    assert numbered(label, LABELS, 4) == number


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("4", "there are classes 0 to 3, not 4"),
        ("goldfisch", "did you mean 'goldfish'?"),
        ("horse", "no class 'horse'"),
    ],
)
def test_wrong_labels(label, said):
    with pytest.raises(PartError) as caught:
        numbered(label, LABELS, 4)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_of_two_classes():
    with pytest.raises(PartError, match=r"names several classes, .*; give a number"):
        numbered("crane", {0: "crane, bird", 1: "crane, machine"}, 2)


def fails(**options):
    with pytest.raises(PartError) as caught:
        Classifier(**{"label": "0", **options}).build(CPU)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("reward 'classifier': ")
    return str(caught.value)


def test_weights_that_are_missing(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    head = [name for name in state if name.startswith("classifier")]
    kept = {name: tensor for name, tensor in state.items() if name not in head}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    assert "is no whole classifier: 2 weights are missing" in fails(model=str(folder))


def test_files_that_are_missing_or_broken(folder, tmp_path):
    assert "nowhere" in fails(model=str(tmp_path / "nowhere"), offline=True)
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert "cannot load" in fails(model=str(folder))
    (folder / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in fails(model=str(folder))


def test_pictures_that_are_prepared_in_an_unknown_way(folder):
    said = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(said | {"resample": 1}))
    assert "in a way that is not known here" in fails(model=str(folder))
    (folder / "preprocessor_config.json").write_text(json.dumps(said | {"rescale_factor": 0.1}))
    assert "in a way that is not known here; write a plugin for it" in fails(model=str(folder))


def test_other_data_is_refused(folders):
    reward = Classifier(model=folders["vit"], label="0").build(CPU)
    with pytest.raises(ContractError, match=r"^reward 'classifier': pictures must be"):
        reward.score(torch.zeros(1, 4, 32, 32), [""])


def test_a_small_picture_is_seen_on_black():
    bare = Preprocessing(
        resize=None,
        mode="bilinear",
        crop=(8, 8),
        floored=True,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    seen = bare.apply(torch.ones(1, 3, 4, 6))
    assert seen.shape == (1, 3, 8, 8)
    assert seen.sum() == 3 * 4 * 6
    assert seen[0, 0, 2:6, 1:7].all()


def test_timm_says_what_it_says(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed", exc_type=ImportError)
    from safetensors.torch import save_file

    network = Streams(0, (0,)).initialise(
        lambda: timm.create_model("test_vit", num_classes=3, pretrained=False)
    )
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    kept = {
        "input_size": [3, 160, 160],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 3,
    }
    said = {"architecture": "test_vit", "num_classes": 3, "pretrained_cfg": kept}
    (tmp_path / "config.json").write_text(json.dumps(said))
    reward = Classifier(model=str(tmp_path), library="timm", label="1").build(CPU)
    view = timm.data.create_transform(**timm.data.resolve_data_config(kept))
    x = picture(200, 170)
    pil = Image.fromarray((x[0] * 255).byte().permute(1, 2, 0).numpy())
    with torch.no_grad():
        wanted = network.eval()(view(pil)[None]).log_softmax(-1)[0, 1]
    assert float(reward.score(x, [""])) == pytest.approx(float(wanted), abs=0.02)


def test_weights_are_for_torchvision_alone():
    with pytest.raises(ValueError, match="'weights' is for library 'torchvision' alone"):
        Classifier(model="a", label="0", weights="b.pt")


def test_the_entry_module_is_light():
    code = (
        "import sys, align_classifier\n"
        "align_classifier.Classifier(model='a', label='b')\n"
        "print(sorted({'transformers', 'timm', 'torchvision'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
