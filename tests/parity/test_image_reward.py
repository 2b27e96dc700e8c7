"""ImageReward against the package image-reward."""

import attrs
import pytest
import torch
from align_image_reward import ImageReward

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("image_reward")
    with pytest.MonkeyPatch.context() as patched, tiny.image_reward():
        patched.chdir(folder)
        tiny.image_reward_files(folder)
        yield folder


@pytest.fixture(scope="module")
def spec(folder):
    place = str(folder / "bert-base-uncased")
    return ImageReward(weights=str(folder), tokenizer=place, match_pil=True)


def test_scores_are_those_of_the_package(spec, agree):
    agree(spec)


def test_so_they_are_for_prompts_of_any_kind(spec, agree):
    prompts = (
        ".",
        "A Tabby CAT!",
        "cat " * 60,
        "çat, ca\u0301t",
        "[ENC] cat",
        "猫 cat",
        "a-b.c",
        "x",
    )
    agree(spec, prompts)


def test_resizing_without_rounding_is_near(spec, pictures):
    near, exact = attrs.evolve(spec, match_pil=False).build(CPU), spec.build(CPU)
    scores = [
        torch.cat([one.score(x.tensor[None], ["a cat"]) for x in pictures.values()])
        for one in (near, exact)
    ]
    gap = (scores[0] - scores[1]).abs().max() / scores[1].std()
    assert 1e-4 < gap < 0.2


def test_climbing_raises_the_score_of_the_package(spec, pictures):
    from PIL import Image

    reward, start = spec.build(CPU), pictures["square"]
    x = start.tensor[None]
    for _ in range(10):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(reward.score(x, ["a tabby cat"]).sum(), x)
        x = (x + 4 / 255 * gradient.sign()).clamp(0, 1)
    levels = (x.detach()[0] * 255).round().byte().permute(1, 2, 0).numpy()
    before, after = spec.judged([start.pil, Image.fromarray(levels)], ["a tabby cat"] * 2)
    assert after > before + 0.1 * before.abs()
