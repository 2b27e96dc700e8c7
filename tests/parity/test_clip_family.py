"""HPSv2, CLIP and PickScore against hpsv2, clip-anytorch and transformers."""

import pytest
import torch
from align_clip import Clip
from align_hpsv2 import HPSv2
from align_pickscore import PickScore
from PIL import Image

CPU = torch.device("cpu")
ODD = (
    *("a cat", "A Tabby CAT!", "cat " * 100, "\u201ccurly\u201d quotes"),
    *("&amp;lt; cat", "\uff23at", "猫", "it's 3,5"),
)


@pytest.fixture(scope="module")
def hps(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("hpsv2")
    with tiny.hpsv2(folder):
        yield str(folder / "HPS.pt")


@pytest.fixture(scope="module")
def file(tmp_path_factory, tiny):
    return str(tiny.clip_file(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    return str(tiny.clip_folder(tmp_path_factory.mktemp("pickscore")))


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_hpsv2(version, hps, agree):
    told = agree(HPSv2(weights=hps, version=version))
    assert told.abs().max() < 1


@pytest.mark.parametrize("scale", ["cosine", "logit"])
def test_clip_of_a_file(scale, file, agree):
    agree(Clip(weights=file, activation="quick_gelu", scale=scale, match_pil=True))


def test_clip_of_a_folder(folder, agree):
    agree(Clip(weights=folder, match_pil=True))


def test_pickscore(folder, agree):
    agree(PickScore(weights=folder, match_pil=True))


def test_hpsv2_of_odd_prompts(hps, agree):
    agree(HPSv2(weights=hps), ODD)


def test_clip_of_odd_prompts(file, agree):
    agree(Clip(weights=file, activation="quick_gelu", match_pil=True), ODD)


def test_pickscore_of_odd_prompts(folder, agree):
    agree(PickScore(weights=folder, match_pil=True), ODD)


@pytest.mark.parametrize("kind", ["hpsv2", "clip", "pickscore"])
def test_climbing_raises_the_score_of_the_package(kind, hps, file, folder, pictures):
    part = {
        "hpsv2": lambda: HPSv2(weights=hps),
        "clip": lambda: Clip(weights=file, activation="quick_gelu"),
        "pickscore": lambda: PickScore(weights=folder),
    }[kind]()
    reward, start, prompt = part.build(CPU), pictures["square"], ["a tabby cat"]
    x = start.tensor[None]
    for _ in range(10):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(reward.score(x, prompt).sum(), x)
        x = (x + 4 / 255 * gradient.sign()).clamp(0, 1)
    levels = (x.detach()[0] * 255).round().byte().permute(1, 2, 0).numpy()
    before, after = part.judged([start.pil, Image.fromarray(levels)], prompt * 2)
    assert after > before + 0.05 * before.abs()
