"""Every recipe that samples runs from end to end, at a tiny size."""

from pathlib import Path

import attrs
import pytest

from align.core.mode import Trains
from align.recipe import load, to_toml
from align.registry import load_catalog
from align.runner import run

ROOT = Path(__file__).parents[1]
MOST = {"steps": 2, "flow_steps": 2, "n": 2, "particles": 2}


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


def small(mode):
    """The mode with few steps, candidates and particles."""
    names = {field.name for field in attrs.fields(type(mode))}
    least = {name: min(most, getattr(mode, name)) for name, most in MOST.items() if name in names}
    return attrs.evolve(mode, **least)


def sampling():
    """Recipes that need nothing but what ships, and do not train."""
    catalog = load_catalog()
    for path in sorted(ROOT.glob("recipes/**/*.toml")):
        if 'weights = "runs/' in path.read_text() or 'autoencoder = "runs/' in path.read_text():
            continue
        if not isinstance(load(path, catalog=catalog).recipe.mode, Trains):
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
    for side in result.sides:
        assert len(side.data) == 2
        assert all(score.isfinite().all() for score in side.scores.values())
    for made in ("recipe.toml", "metrics.jsonl", "table.md"):
        assert (result.folder / made).stat().st_size
