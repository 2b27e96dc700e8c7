"""The reward `hpsv2` on a small checkpoint of the released form."""

import attrs
import pytest
import torch
import torch.nn.functional as F
from align_clip.testing import (
    MERGES,
    climbed,
    picture_features,
    pictures,
    small_state,
    small_tokenizer,
    text_features,
)
from align_clip.tokens import cleaned, from_merges
from align_hpsv2 import HPSv2
from huggingface_hub import constants

from align import PartError
from align.io.images import standardised

CPU = torch.device("cpu")
SHA = "0123456789012345678901234567890123456789"
FILES = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cache of the hub with both versions in half precision, and a tokenizer beside it."""
    cache = tmp_path_factory.mktemp("hpsv2")
    repo = cache / "models--xswu--HPSv2"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(SHA)
    snapshot = repo / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    for seed, file in enumerate(FILES.values()):
        torch.save({"state_dict": state(seed)}, snapshot / file)
    small_tokenizer(cache / "tokenizer.json")
    return cache


def state(seed):
    return {name: x.half() for name, x in small_state(seed=seed).items()}


@pytest.fixture
def part(folder, monkeypatch):
    """The spec with no path to its weights: they are found in the cache, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return HPSv2(tokenizer=str(folder / "tokenizer.json"))


def boxed(x, size=32):
    """Longest side to `size` and black bars, in the words of the package: no clamp."""
    height, width = x.shape[-2:]
    scale = size / max(height, width)
    new = round(height * scale), round(width * scale)
    x = F.interpolate(x, new, mode="bicubic", antialias=True)
    canvas = x.new_zeros(len(x), 3, size, size)
    top, left = (size - new[0]) // 2, (size - new[1]) // 2
    canvas[..., top : top + new[0], left : left + new[1]] = x
    return canvas


def expected(weights, data, prompt):
    whole = {name: x.float() for name, x in weights.items()}
    tokens = torch.tensor([from_merges(MERGES).encode(cleaned(prompt)).ids])
    image = picture_features(whole, standardised(boxed(data)), heads=2, activation="gelu")
    return (image * text_features(whole, tokens, heads=1, activation="gelu")).sum(-1)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 50), (57, 20), (32, 24), (16, 20)])
def test_scores_are_those_of_a_second_implementation(part, height, width):
    data, prompt = pictures(height, width), "A  “Cat” &amp; dog"
    score = part.build(CPU).score(data, [prompt] * 2)
    torch.testing.assert_close(score, expected(state(1), data, prompt), atol=1e-5, rtol=1e-5)
    assert score.dtype == torch.float32
    assert (score.abs() <= 1).all()


def test_versions_are_two_files_and_2_1_is_meant_by_default(part):
    data = pictures(32, 32)
    for number, version in enumerate(("v2.0", "v2.1")):
        score = attrs.evolve(part, version=version).build(CPU).score(data, ["a cat"] * 2)
        wanted = expected(state(number), data, "a cat")
        torch.testing.assert_close(score, wanted, atol=1e-5, rtol=1e-5)
    again = part.build(CPU).score(data, ["a cat"] * 2)
    torch.testing.assert_close(again, score)


def test_a_path_is_taken_as_well(part, tmp_path):
    torch.save(state(5), tmp_path / "mine.pt")
    data = pictures(32, 32)
    score = attrs.evolve(part, weights=str(tmp_path / "mine.pt")).build(CPU).score(data, ["x"] * 2)
    torch.testing.assert_close(score, expected(state(5), data, "x"), atol=1e-5, rtol=1e-5)


def test_every_pixel_has_its_gradient_bars_or_not(part):
    reward = part.build(CPU)
    reward.network.double()
    x = pictures(40, 50).double().requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(x, ["a cat"] * 2).sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).all()
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    h = 1e-6
    with torch.no_grad():
        up, down = (reward.score(x + sign * h * way, ["a cat"] * 2) for sign in (1, -1))
    slopes = (up - down) / (2 * h)
    torch.testing.assert_close((gradient * way).sum((1, 2, 3)), slopes, rtol=1e-6, atol=1e-8)


def test_climbing_raises_the_score_of_the_saved_picture(part):
    reward, x = part.build(CPU), pictures(40, 50)
    first = reward.score(x, ["a cat"] * 2)
    saved = climbed(reward, x, "a cat")
    assert (reward.score(saved, ["a cat"] * 2) > first + 0.1).all()


def test_missing_or_wrong_weights_are_an_error_of_one_line(part, tmp_path, monkeypatch):
    torch.save({"state_dict": {"blip.visual_encoder.x": torch.zeros(1)}}, tmp_path / "wrong.pt")
    with pytest.raises(PartError, match=r"^reward 'hpsv2': .*seems to be an ImageReward model$"):
        attrs.evolve(part, weights=str(tmp_path / "wrong.pt")).build(CPU)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PartError, match=r"run 'hf download xswu/HPSv2 HPS_v2\.1_compressed\.pt'"):
        part.build(CPU)


def test_declared():
    assert HPSv2.range == (-1.0, 1.0)
    assert HPSv2.differentiable
    assert HPSv2.domain == "image"
