"""Every recipe that samples or fine-tunes runs from end to end, at a tiny size."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from align.catalog.registry import load_catalog
from align.core.mode import Trainable
from align.core.study import Study
from align.modes.finetune.mode import FineTune
from align.recipe import load, to_toml
from align.runner.session import run

ROOT = Path(__file__).parents[2]
MOST = dict.fromkeys(
    ("steps", "guided_steps", "stages", "flow_steps", "n", "particles", "rollout_steps", "draws"), 2
) | {"law_samples": 16, "sets": 2}
pytestmark = pytest.mark.usefixtures("unpainted")
# What other recipes make, users have, or the hub has; plugins of public weights try their recipes
# with tiny files.
MADE = (
    *('weights = "runs/', 'autoencoder = "runs/', 'path = "data/'),
    *('kind = "hpsv2"', 'kind = "image_reward"', 'kind = "pickscore"', 'kind = "diffusers"'),
    '[model]\nkind = "imagenet"',
)


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


def small(mode):
    """A mode, sampler or estimator with few steps, candidates, particles and draws."""
    if mode is None:
        return None
    numbers = {field.name: getattr(mode, field.name) for field in attrs.fields(type(mode))}
    least = {
        k: min(most, numbers[k]) for k, most in MOST.items() if isinstance(numbers.get(k), int)
    }
    if isinstance(mode, Study):
        lists = ("times", "inner_steps", "outer_steps")
        least |= {name: numbers[name][:2] for name in lists if name in numbers}
        if attrs.has(type(numbers.get("method"))):
            least["method"] = small(numbers["method"])
    if isinstance(mode, FineTune):
        least |= {
            "pool": 4,
            "optimisation": attrs.evolve(mode.optimisation, batch=4),
            "evaluation": attrs.evolve(mode.evaluation, every=2, samples=2, flow_steps=2),
        }
    return attrs.evolve(mode, **least)


def sampling():
    """Recipes that need nothing but what ships, and do not train from the beginning."""
    catalog = load_catalog()
    for path in sorted(ROOT.glob("recipes/**/*.toml")):
        # Those of the paper are others with fewer steps; tests/benchmarks runs some.
        if path.parent.name == "paper" or any(made in path.read_text() for made in MADE):
            continue
        mode = load(path, catalog=catalog).recipe.mode
        if isinstance(mode, FineTune) or not isinstance(mode, Trainable):
            yield pytest.param(path, id=str(path.relative_to(ROOT / "recipes")))


def different(arms):
    """The arms without those that are another's equal, once they are small."""
    unlike = list[Any]()
    for arm in arms:
        parts = {name: small(getattr(arm, name)) for name in ("mode", "sampler", "estimator")}
        tiny = attrs.evolve(arm, **parts)
        if all(attrs.evolve(tiny, name=other.name) != other for other in unlike):
            unlike.append(tiny)
    return tuple(unlike)


def ran(path, catalog, folder, device="cpu"):
    """A tiny recipe, and what its run gives."""
    recipe = load(path, catalog=catalog).recipe
    own = {"samples": 2, "unsteered": 4, "out": str(folder / device), "device": device}
    # Arms of fine-tuning differ by numbers alone, and each trains a network of its own.
    arms = recipe.compare[:2] if isinstance(recipe.mode, FineTune) else recipe.compare
    tiny = attrs.evolve(
        recipe,
        run=attrs.evolve(recipe.run, **own),
        mode=small(recipe.mode),
        sampler=small(recipe.sampler),
        estimator=small(recipe.estimator),
        compare=different(arms),
    )
    written = folder / path.name
    written.write_text(to_toml(tiny))
    return tiny, run(written, progress=False, catalog=catalog)


@pytest.fixture(scope="module")
def on_the_cpu():
    """What runs gave here, by recipe."""
    return {}


@pytest.mark.parametrize("path", list(sampling()))
def test_recipe_runs(path, catalog, tmp_path, monkeypatch, on_the_cpu):
    monkeypatch.chdir(ROOT)
    recipe, result = ran(path, catalog, tmp_path)
    if is_small(path):
        on_the_cpu[path] = result
    assert [arm.name for arm in result.results] == [arm.name for arm in recipe.arms()]
    studies = isinstance(recipe.mode, Study)
    for arm in result.results:
        assert (arm.findings.points and not arm.x1) if studies else len(arm.data) == 2
        assert all(score.isfinite().all() for score in arm.scores.values())
    shown = ("study.md", "study.png") if studies else ("table.md",)
    for made in ("recipe.toml", "metrics.jsonl", *shown):
        assert (result.folder / made).stat().st_size


def is_small(path):
    """Whether it takes seconds on a pretended device too."""
    return path.parent.name == "closed_form" or path.name == "tabby_cat.toml"


@pytest.mark.parametrize("path", list(sampling()))
def test_another_device_gives_the_same(
    path, catalog, tmp_path, monkeypatch, other_device, on_the_cpu
):
    if not (torch.cuda.is_available() or is_small(path)):
        pytest.skip("needs a CUDA device: too slow where that is pretended")
    monkeypatch.chdir(ROOT)
    here = on_the_cpu.get(path) or ran(path, catalog, tmp_path)[1]
    with other_device():
        _, there = ran(path, catalog, tmp_path, "cuda")
        for one, other in zip(here.results, there.results, strict=True):
            if one.data is not None:
                assert other.data.device != one.data.device
                torch.testing.assert_close(other.data.cpu(), one.data, rtol=1e-3, atol=1e-3)
            for name, score in one.scores.items():
                torch.testing.assert_close(other.scores[name].cpu(), score, rtol=1e-2, atol=1e-2)
