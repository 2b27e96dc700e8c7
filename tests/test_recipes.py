"""Every recipe that samples or fine-tunes runs from end to end, at a tiny size."""

from pathlib import Path

import attrs
import pytest

from align.core.mode import Trains
from align.core.study import Studies
from align.modes.finetune import FineTune
from align.recipe import load, to_toml
from align.registry import load_catalog
from align.runner import run

ROOT = Path(__file__).parents[1]
MOST = {"steps": 2, "flow_steps": 2, "n": 2, "particles": 2, "rollout_steps": 2, "draws": 2}
# What other recipes make, users have, or the hub has.
MADE = ('weights = "runs/', 'autoencoder = "runs/', 'path = "data/', 'kind = "hpsv2"')


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


def small(mode):
    """The mode with few steps, candidates and particles."""
    names = {field.name for field in attrs.fields(type(mode))}
    least = {name: min(most, getattr(mode, name)) for name, most in MOST.items() if name in names}
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
        if any(made in path.read_text() for made in MADE):
            continue
        mode = load(path, catalog=catalog).recipe.mode
        if isinstance(mode, FineTune) or not isinstance(mode, Trains):
            yield pytest.param(path, id=str(path.relative_to(ROOT / "recipes")))


@pytest.mark.parametrize("path", list(sampling()))
def test_recipe_runs(path, catalog, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = load(path, catalog=catalog).recipe
    tiny = attrs.evolve(
        recipe,
        run=attrs.evolve(recipe.run, samples=2, unsteered=8, out=str(tmp_path / "run")),
        mode=small(recipe.mode),
        compare=tuple(attrs.evolve(arm, mode=small(arm.mode)) for arm in recipe.compare),
    )
    written = tmp_path / path.name
    written.write_text(to_toml(tiny))
    result = run(written, progress=False, catalog=catalog)
    assert [side.name for side in result.sides] == [arm.name for arm in recipe.arms()]
    studies = isinstance(recipe.mode, Studies)
    for side in result.sides:
        assert (side.findings.points and not side.x1) if studies else len(side.data) == 2
        assert all(score.isfinite().all() for score in side.scores.values())
    shown = ("study.md", "study.png") if studies else ("table.md",)
    for made in ("recipe.toml", "metrics.jsonl", *shown):
        assert (result.folder / made).stat().st_size
