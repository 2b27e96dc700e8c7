"""Recipes of ImageNet, with tiny files of the same layouts in place of the weights."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
from align_imagenet.testing import save_autoencoder, tensors
from PIL import Image

from align.runner.session import run

pytest.importorskip("diffusers")
RECIPES = Path(__file__).parents[3] / "recipes" / "imagenet"
NAMES = sorted(path.stem for path in RECIPES.glob("*.toml"))
TWINS = {"tabby_cat_image_reward", "tabby_cat_pickscore"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny files of all layouts, an autoencoder, and pictures of two classes."""
    folder = tmp_path_factory.mktemp("imagenet")
    save_autoencoder(folder / "vae")
    for layout in ("mfm", "dmf", "sit"):
        torch.save(tensors(layout, depth=1), folder / f"{layout}.pt")
    for number, name in enumerate(("tench", "281")):
        (folder / "data" / "train" / name).mkdir(parents=True)
        for picture in range(2):
            colour = (60 * number, 80 * picture, 90)
            Image.new("RGB", (20, 20), colour).save(
                folder / "data" / "train" / name / f"{picture}.png"
            )
    return folder


def tiny(name, folder, out):
    """The recipe as it stands, but for sizes, files and rewards that are too large."""
    text = (RECIPES / f"{name}.toml").read_text()
    sizes = {
        r"(samples|flow_steps|rollout_steps|particles|sample_every|n|pool)": 2,
        r"(steps|stages|draws|every)": 2,
        r"(batch)": 4,
        r"(grad_accumulation|warmup)": 1,
        r"(size)": 16,
    }
    for key, value in sizes.items():
        text = re.sub(rf"\b{key} = \d+", rf"\1 = {value}", text)
    text = re.sub(r"\b(inner_steps|outer_steps) = \[.*\]", r"\1 = [1, 2]", text)
    text = re.sub(r"\btimes = \[.*\]", "times = [0.2, 0.5]", text)
    text = text.replace('device = "cuda"', f'device = "cpu"\nout = "{out}"')
    text = re.sub(
        r'^layout = "(\w+)"',
        rf'layout = "\1"\nweights = "{folder}/\1.pt"\nvae = "{folder}/vae"\nheads = 3\n'
        "encoder_depth = 1",
        text,
        flags=re.M,
    )
    text = re.sub(r'\{ layout = "(\w+)"', rf'{{ layout = "\1", weights = "{folder}/\1.pt"', text)
    text = text.replace("data/imagenet256.tar", f"{folder}/data")
    text = text.replace("data/imagenet256_latents", f"{out}_latents")
    text = text.replace(
        "A high-quality, high-resolution photograph of a {class}.", "A {tench|tabby cat}."
    )
    # Rewards that weigh gigabytes: one that can be optimised, and two that cannot.
    text = re.sub(
        r'kind = "(hpsv2|image_reward)"\n(dtype = .*\n)?(recompute = .*\n)?',
        'kind = "statistic"\nof = "contrast"\n',
        text,
    )
    text = re.sub(r'kind = "imagenet"\n(?!layout)', 'kind = "imagenet"\nlabel = "tench"\n', text)
    text = text.replace("size = 16\n", "size = 32\n")
    text = text.replace('kind = "pickscore"', 'kind = "compressibility"')
    # Arms that differ by sizes alone are one now.
    head, *arms = text.split("[[compare]]\n")
    arms = arms[:1] + arms[-1:] if name == "finetune" else arms
    distinct = {re.sub(r"name = .*", "", arm).strip(): arm for arm in reversed(arms)}
    return "[[compare]]\n".join((head, *reversed(distinct.values())))


@pytest.mark.parametrize("name", sorted(set(NAMES) - TWINS))
def test_recipe_runs_with_tiny_files(name, folder, tmp_path):
    recipe = tmp_path / f"{name}.toml"
    recipe.write_text(tiny(name, folder, tmp_path / "out"))
    arms = tomllib.loads(recipe.read_text()).get("compare", [])
    result = run(recipe, progress=False)
    assert [arm.name for arm in result.results] == [arm["name"] for arm in arms] or not arms
    for arm in result.results:
        assert all(score.isfinite().all() for score in arm.scores.values())


def test_the_three_recipes_of_tabby_cats_differ_by_their_rewards_alone():
    whole = {name: tomllib.loads((RECIPES / f"{name}.toml").read_text()) for name in NAMES}
    optimised = []
    for name in ("tabby_cat", *sorted(TWINS)):
        rewards = whole[name].pop("reward")
        assert whole[name] == whole["tabby_cat"]
        assert len({reward["kind"] for reward in rewards}) == 3
        optimised += [reward["kind"] for reward in rewards if not reward.get("held_out")]
    assert optimised == ["hpsv2", "image_reward", "pickscore"]


def test_every_recipe_says_its_hardware_and_what_has_been_run():
    for name in sorted(set(NAMES) - TWINS):
        text = (RECIPES / f"{name}.toml").read_text()
        assert re.search(r"Written for (one|eight)\s+(# )?GPU", text), name
        assert "Run here with" in re.sub(r"\s+#?\s*", " ", text), name
