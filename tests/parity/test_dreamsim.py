"""The likeness `dreamsim`: its package's distance, on small networks in the layout of its files."""

import copy
from functools import partial

import attrs
import dreamsim
import peft
import pytest
import torch
from align_likeness import DreamSim, DreamSimMetric
from dreamsim.config import dreamsim_args
from dreamsim.feature_extraction import load_clip_as_dino, load_open_clip_as_dino
from dreamsim.feature_extraction.vision_transformer import VisionTransformer
from dreamsim.model import PerceptualModel

from align import PartError
from align.testing import conformance

pytestmark = pytest.mark.filterwarnings("ignore")  # of the package, where the test calls it

CPU = torch.device("cpu")
VARIANTS = ("clip_vitb32", "open_clip_vitb32", "dino_vitb16", "ensemble")
WIDTH, PROJECTED = 48, 32
SMALL = {"embed_dim": WIDTH, "num_heads": 2, "qkv_bias": True}
SMALL["norm_layer"] = partial(torch.nn.LayerNorm, eps=1e-6)
TUNED = {"r": 4, "lora_alpha": 2.0, "lora_dropout": 0.1, "bias": "none", "target_modules": ["qkv"]}


def small(patch_size, depth=2):
    return VisionTransformer(patch_size=patch_size, depth=depth, **SMALL)


def clip(folder, name, shaken):
    """One of the package's files of CLIP's networks."""
    network = small(int(name[-2:]))
    network.pos_drop = torch.nn.LayerNorm(WIDTH)  # as both of the package's loaders have it
    state = shaken(network).state_dict()
    state["proj"] = torch.randn(WIDTH, PROJECTED, generator=torch.Generator().manual_seed(1))
    torch.save({"state_dict": state}, folder / f"{name}_pretrain.pth.tar")


def dino_head(folder):
    """The package's file of dino's head, which no variant uses."""
    names = [f"mlp.{layer}.{what}" for layer in (0, 2, 4) for what in ("weight", "bias")]
    state = {f"module.head.{name}": torch.zeros(1) for name in (*names, "last_layer.weight")}
    torch.save({"student": state}, folder / "dino_vitb16_pretrain.pth")


def tuned(folder, variant):
    """What was tuned of a variant, saved by peft."""
    model = PerceptualModel(
        **dreamsim_args["model_config"][variant], device="cpu", load_dir=str(folder)
    )
    network = peft.get_peft_model(model, peft.LoraConfig(**TUNED))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if "lora_" in name:
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    name = "ensemble" if variant == "ensemble" else f"{variant}_single"
    network.save_pretrained(folder / f"{name}_lora")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("dreamsim")
    # The package takes dino's last layer by its number: there are twelve.
    dino = tiny.shaken(small(16, depth=12), 0.05)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.hub, "load", lambda repository, model: copy.deepcopy(dino))
        for module in (load_clip_as_dino, load_open_clip_as_dino):
            patched.setattr(module, "vit_base", small)
        for name in ("clip_vitb32", "open_clip_vitb32", "clip_vitb16", "open_clip_vitb16"):
            clip(folder, name, tiny.shaken)
        dino_head(folder)
        hub = torch.hub.get_dir()
        for variant in VARIANTS:
            tuned(folder, variant)
        torch.hub.set_dir(hub)
        yield folder


@pytest.fixture(scope="module")
def like(folder, pictures):
    """The picture that others should be like, in a file."""
    pictures["tall"].pil.save(folder / "like.png")
    PART["dreamsim"] = DreamSim(
        picture=str(folder / "like.png"), folder=str(folder), variant="clip_vitb32"
    )
    return pictures["tall"]


PART = {}


@pytest.fixture(autouse=True)
def _made(like):
    """The files are there before the first test."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_score_is_the_packages_distance(variant, like):
    part = attrs.evolve(PART["dreamsim"], variant=variant)
    hub = torch.hub.get_dir()
    network, _ = dreamsim.dreamsim(device="cpu", cache_dir=part.folder, dreamsim_type=variant)
    torch.hub.set_dir(hub)
    x = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    squashed = torch.nn.functional.interpolate(
        like.tensor[None], (224, 224), mode="bicubic", antialias=True
    ).clamp(0, 1)
    expected = torch.cat([network(one[None], squashed) for one in x])
    scores = part.build(CPU).score(x, [""] * 3)
    torch.testing.assert_close(-scores, expected, rtol=1e-5, atol=1e-6)
    assert expected.min() > 1e-3 and expected.std() > 1e-3


def test_what_the_package_resizes_is_near(pictures):
    part = PART["dreamsim"]
    told = part.judged([one.pil for one in pictures.values()], [""] * len(pictures))
    reward = part.build(CPU)
    ours = torch.cat([reward.score(one.tensor[None], [""]) for one in pictures.values()])
    # Theirs rounds the resized picture to whole levels.
    assert (ours - told).abs().max() < 0.02 * told.std()


def test_where_other_downloads_go_is_left_as_it_was(capsys):
    before = torch.hub.get_dir()
    attrs.evolve(PART["dreamsim"], variant="dino_vitb16").build(CPU)
    assert torch.hub.get_dir() == before
    assert capsys.readouterr().out == ""


def test_metric_is_the_mean_of_the_reward():
    part = PART["dreamsim"]
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    metric = DreamSimMetric(picture=part.picture, folder=part.folder, variant=part.variant)
    expected = float(part.build(CPU).score(x, [""] * 2).mean())
    assert metric.compute(x, None) == {"dreamsim": pytest.approx(expected, rel=1e-5)}


def test_weights_that_are_not_there_are_told_in_a_line(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError("no network\nhere")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    part = attrs.evolve(PART["dreamsim"], folder=str(tmp_path / "new" / "models"))
    with pytest.raises(PartError, match=r"cannot load 'clip_vitb32': no network; it needs"):
        part.build(CPU)


test_conformance = conformance("reward", lambda: PART["dreamsim"])
