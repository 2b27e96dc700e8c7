"""The reward `pickscore` on a small model that transformers saved, and against transformers."""

import attrs
import numpy as np
import pytest
import torch
from align_clip.testing import (
    MERGES,
    climbed,
    eight_bits,
    picture_features,
    pictures,
    small_folder,
    small_state,
    small_tokenizer,
    text_features,
)
from align_clip.tokens import from_merges
from align_pickscore import PickScore
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file

from align import PartError
from align.io.images import preprocess, standardised

CPU = torch.device("cpu")
SHA = "0123456789012345678901234567890123456789"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of the hub with a small model under the name of PickScore."""
    cache = tmp_path_factory.mktemp("pickscore")
    repo = cache / "models--yuvalkirstain--PickScore_v1"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(SHA)
    (repo / "snapshots" / SHA).mkdir(parents=True)
    small_folder(small_state(context=77), repo / "snapshots" / SHA, "gelu")
    small_tokenizer(cache / "tokenizer.json")
    return cache


@pytest.fixture
def part(cache, monkeypatch):
    """The spec with no path to its weights: they are found in the cache, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return PickScore(tokenizer=str(cache / "tokenizer.json"))


def folder_of(cache):
    return cache / "models--yuvalkirstain--PickScore_v1" / "snapshots" / SHA


def levels(height, width, count=2, seed=0):
    """Pictures of 8-bit levels."""
    return eight_bits(pictures(height, width, count, seed))


@pytest.mark.parametrize("prompt", ["a cat", "A “Cat” &amp;  the dog"])
def test_scores_are_those_of_a_second_implementation(part, prompt):
    data, state = levels(40, 51), small_state(context=77)
    score = part.build(CPU).score(data, [prompt] * 2)
    seen = preprocess(data, 32, "shortest side, centre crop", crop="floored")
    image = picture_features(state, standardised(seen), heads=2, activation="gelu")
    # The prompt is not repaired.
    tokens = torch.tensor([from_merges(MERGES).encode(prompt).ids])
    text = text_features(state, tokens, heads=1, activation="gelu")
    torch.testing.assert_close(score, 40 * (image * text).sum(-1), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 51), (33, 36)])
def test_scores_are_those_of_the_authors_example(part, cache, height, width):
    """The README of PickScore: CLIPModel and PIL pictures in CLIPImageProcessor's steps."""
    from transformers import CLIPModel, CLIPTokenizerFast

    network = CLIPModel.from_pretrained(folder_of(cache)).eval()
    network.text_model.eos_token_id = 519
    tokenizer = CLIPTokenizerFast(tokenizer_object=from_merges(MERGES), pad_token="<|endoftext|>")
    data, prompt = levels(height, width), "A “Cat” &amp;  the dog"
    inputs = tokenizer([prompt], padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        found = [
            network.get_image_features(pixel_values=by_pil(data)),
            network.get_text_features(**inputs),
        ]
        image, text = (
            x / x.norm(dim=-1, keepdim=True)
            for x in (f if torch.is_tensor(f) else f.pooler_output for f in found)
        )
        expected = network.logit_scale.exp() * (text @ image.T)[0]
    score = attrs.evolve(part, match_pil=True).build(CPU).score(data, [prompt] * 2)
    # PIL rounds the coefficients of its filter: a few levels in 255 differ by one.
    torch.testing.assert_close(score, expected, atol=0.02, rtol=0)
    assert (part.build(CPU).score(data, [prompt] * 2) - score).abs().max() > 1e-5


def by_pil(data, size=32):
    """Shortest side to `size`, centre crop, as transformers' image processor on PIL does."""
    height, width = data.shape[-2:]
    short = min(height, width)
    new = size * height // short, size * width // short
    top, left = (new[0] - size) // 2, (new[1] - size) // 2
    rows = []
    for picture in data:
        image = Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy())
        image = image.resize(new[::-1], Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + size, top + size))
        rows.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255)
    return standardised(torch.stack(rows))


def test_weights_are_taken_from_a_bin_file_as_well(part, cache, tmp_path):
    state = load_file(folder_of(cache) / "model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((folder_of(cache) / "config.json").read_text())
    data = levels(32, 32)
    again = attrs.evolve(part, weights=str(tmp_path)).build(CPU)
    wanted = part.build(CPU).score(data, ["x"] * 2)
    torch.testing.assert_close(again.score(data, ["x"] * 2), wanted, atol=1e-4, rtol=0)
    with pytest.raises(PartError, match=r"^reward 'pickscore': weights: .* no 'config\.json'"):
        (tmp_path / "config.json").unlink()
        attrs.evolve(part, weights=str(tmp_path)).build(CPU)


def test_a_configuration_with_another_end_of_text_is_read_at_the_right_token(part, cache, tmp_path):
    config = (folder_of(cache) / "config.json").read_text()
    assert '"eos_token_id": 519' in config
    (tmp_path / "config.json").write_text(
        config.replace('"eos_token_id": 519', '"eos_token_id": 3')
    )
    (tmp_path / "model.safetensors").symlink_to(folder_of(cache) / "model.safetensors")
    data = levels(32, 32)
    again = attrs.evolve(part, weights=str(tmp_path)).build(CPU)
    wanted = part.build(CPU).score(data, ["x"] * 2)
    torch.testing.assert_close(again.score(data, ["x"] * 2), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("match_pil", [False, True])
def test_climbing_raises_the_score_of_the_saved_picture(part, match_pil):
    reward, x = attrs.evolve(part, match_pil=match_pil).build(CPU), levels(40, 50)
    first = reward.score(x, ["a cat"] * 2)
    saved = climbed(reward, x, "a cat")
    assert (reward.score(saved, ["a cat"] * 2) > first + 4).all()


def test_the_gradient_agrees_with_finite_differences(part):
    reward = part.build(CPU)
    reward.network.double()
    x = (0.1 + 0.8 * levels(40, 50)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(x, ["a cat"] * 2).sum(), x)
    assert 0.75 < (gradient != 0).float().mean() < 0.95  # none outside of the crop
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    h = 1e-6
    with torch.no_grad():
        up, down = (reward.score(x + sign * h * way, ["a cat"] * 2) for sign in (1, -1))
    slopes = (up - down) / (2 * h)
    torch.testing.assert_close((gradient * way).sum((1, 2, 3)), slopes, rtol=1e-6, atol=1e-7)


def test_declared():
    assert PickScore.differentiable
    assert PickScore.domain == "image"
    assert PickScore.range == (-float("inf"), float("inf"))
