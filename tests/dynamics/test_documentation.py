"""docs/how_to/dynamics.md: its dynamics are found, go into a recipe, and pass their test."""

import importlib
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from align.catalog.registry import load_catalog
from align.recipe import load

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "how_to" / "dynamics.md").read_text()


@pytest.fixture
def folder(tmp_path):
    """The files that the page shows."""
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", TEXT, re.M | re.S)
    assert [name for name, _ in blocks] == ["midpoint.py", "test_midpoint.py"]
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    return tmp_path


def test_a_recipe_may_name_the_dynamics_of_the_page(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "midpoint", raising=False)
    catalog = load_catalog([EntryPoint("midpoint", "midpoint", "align")])
    assert not catalog.broken
    recipe = re.search(
        r"^```toml\n(.*?)^```", (DOCS / "reference" / "recipes.md").read_text(), re.M | re.S
    )
    path = folder / "two_points.toml"
    path.write_text(recipe[1])
    (override,) = re.findall(r"--set '(.*)'$", TEXT, re.M)
    mode = load(path, sets=[override], catalog=catalog).recipe.mode
    assert type(mode.dynamics) is importlib.import_module("midpoint").Midpoint


def test_the_dynamics_of_the_page_pass_their_test(folder, forked_pytest):
    done = forked_pytest(folder)
    assert done.ended() == 0, done.stdout
