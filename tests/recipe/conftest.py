"""The toy parts as an installed distribution, and recipes in a folder of their own."""

import shutil
from importlib import metadata
from pathlib import Path

import pytest

from align.catalog.registry import load_catalog
from align.recipe import load

GOOD = """\
# A good recipe.
[model]
kind = "toy_images"
prompt = "a cat"

[sampler]
kind = "toy_map"

[estimator]
kind = "toy_slope"

[[reward]]
kind = "toy_smooth"
weight = 5

[[reward]]
kind = "toy_jpeg"
quality = 3
held_out = true

[[metric]]
kind = "toy_sharpness"

[mode]
kind = "toy_guide"
steps = 10
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder in which two distributions are installed: one whole, one broken."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(Path(__file__).parent / "toy_parts.py", folder)
    (folder / "toy_broken.py").write_text("import a_package_that_is_not_there\n")
    for name, plugin, module in (
        ("align-toys", "toys", "toy_parts"),
        ("align-lost", "lost", "toy_broken"),
    ):
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[align]\n{plugin} = {module}\n")
    return folder


@pytest.fixture
def installed(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.fixture
def catalog(installed):
    points = [p for p in metadata.entry_points(group="align") if p.name in ("toys", "lost")]
    return load_catalog(points, builtins=False)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def read(folder, catalog):
    """Load a recipe from its text."""

    def read_text(text, *sets):
        Path("r.toml").write_text(text)
        return load("r.toml", sets=sets, catalog=catalog)

    return read_text


@pytest.fixture
def good():
    return GOOD
