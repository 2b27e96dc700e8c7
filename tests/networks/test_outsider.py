"""The network and the data set of docs/how_to as distributions: trained, exported, steered."""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

import align
from align.catalog.registry import load_catalog
from align.core.errors import PartError, RecipeError
from align.core.network import VelocityNetwork
from align.models.network import Network, load
from align.training import weights

pytestmark = pytest.mark.usefixtures("unpainted")
DOCS = Path(__file__).parents[2] / "docs" / "how_to"
CPU = torch.device("cpu")
PRETRAIN = """
[run]
device = "cpu"

[model]
kind = "network"
net = { kind = "shallow", units = [8, 4] }
shape = [2]
classes = ["Upper", "lower"]

[mode]
kind = "pretrain"
data = { kind = "two_moons", count = 20 }
steps = 3
optimisation = { batch = 8, warmup = 1 }
"""
DISTILL = """
[run]
device = "cpu"

[model]
kind = "network"
weights = "runs/flow/model.safetensors"

[mode]
kind = "distill"
data = { kind = "two_moons", count = 20 }
steps = 3
optimisation = { batch = 8, warmup = 1 }
"""
STEER = """
[run]
device = "cpu"
samples = 4
unsteered = 0

[model]
kind = "network"
weights = "runs/map/model.safetensors"
prompt = "upper"

[sampler]
kind = "mfm"

[estimator]
kind = "gradient"
draws = 2

[[reward]]
kind = "likelihood"
matrix = [[1.0, 0.0]]
observed = [1.0]
std = 0.5

[mode]
kind = "steer"
steps = 3
"""


def blocks(page):
    """The Python files that a page shows, by name."""
    text = (DOCS / page).read_text()
    return dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", text, re.M | re.S))


def write(folder, *pages):
    for page in pages:
        for name, code in blocks(page).items():
            (folder / name).write_text(code)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder in which the network and the data set are installed, a distribution each."""
    folder = write(tmp_path_factory.mktemp("site"), "networks.md", "datasets.md")
    for name, module in (("align-shallow", "shallow"), ("align-moons", "two_moons")):
        info = folder / f"{name.replace('-', '_')}-0.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
        (info / "entry_points.txt").write_text(f"[align]\n{module} = {module}\n")
    return folder


def test_the_parts_pass_the_checks_that_their_pages_show(tmp_path, forked_pytest):
    write(tmp_path, "networks.md", "datasets.md")
    done = forked_pytest(tmp_path)
    assert done.ended() == 0, done.stdout
    assert "failed" not in done.stdout


@pytest.fixture(scope="module")
def runs(site, tmp_path_factory):
    """A folder with the runs of the three recipes, made where the distribution is installed."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.chdir(folder)
        for name, recipe in (("flow", PRETRAIN), ("map", DISTILL), ("steered", STEER)):
            Path(f"{name}.toml").write_text(recipe)
            align.run(f"{name}.toml", progress=False)
    return folder / "runs"


def test_training_of_an_outsider_s_network_ends_in_weights_that_name_it(runs):
    about = weights.about(runs / "map/model.safetensors")
    assert about["nets"]["posterior"] == {
        "units": [8, 4],
        "kind": "shallow",
        "plugin": "align-shallow 0.3",
        "role": "meta_flow_map",
    }
    assert about["classes"] == ["Upper", "lower"]


def test_weights_open_again_where_the_plugin_is_installed(runs, site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    path = runs / "map/model.safetensors"
    spec = Network(weights=str(path), prompt="upper")
    assert spec.domain == "vector"
    model = spec.build(CPU)
    assert isinstance(model.posterior, VelocityNetwork)
    assert model.posterior.config.units == (8, 4)
    assert model.posterior.role == "meta_flow_map"
    flow = load(runs / "flow/model.safetensors", CPU).flow
    assert all(torch.equal(flow.state_dict()[k], v) for k, v in model.flow.state_dict().items())


def test_an_outsider_s_map_is_steered(runs):
    lines = (runs / "steered/metrics.jsonl").read_text().splitlines()
    rewards = [step["reward"] for step in map(json.loads, lines) if "reward" in step]
    assert len(rewards) == 3
    assert all(map(math.isfinite, rewards))


def test_weights_without_their_plugin_say_what_to_install(runs):
    path = runs / "map/model.safetensors"
    for use in (Network(weights=str(path)).build, lambda device: load(path, device)):
        with pytest.raises(PartError) as caught:
            use(CPU)
        assert str(caught.value) == (
            f"weights: '{path}' needs network 'shallow' of align-shallow 0.3,"
            " which is not installed; pip install align-shallow"
        )


def test_weights_with_a_broken_plugin_say_why_it_is_broken(runs, site, tmp_path, monkeypatch):
    shutil.copytree(site, tmp_path / "site")
    monkeypatch.delitem(sys.modules, "shallow", raising=False)
    (tmp_path / "site/shallow.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(PartError) as caught:
        load(runs / "map/model.safetensors", CPU)
    text = str(caught.value)
    assert "plugin 'shallow' (align-shallow 0.3) did not load: ModuleNotFoundError" in text
    assert "\n" not in text


def test_weights_are_found_in_a_catalog_that_is_handed_down(runs):
    path = runs / "flow/model.safetensors"
    empty = load_catalog([], builtins=False)
    with pytest.raises(PartError, match="needs network 'shallow'"):
        load(path, CPU, catalog=empty)


def test_recipes_without_the_plugin_are_refused_at_its_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_text(PRETRAIN)
    with pytest.raises(RecipeError) as caught:
        align.run("r.toml", progress=False)
    net, data = str(caught.value).splitlines()
    assert net.startswith("r.toml:7: model.net.kind: no network named 'shallow'; known are 'dit',")
    text = "r.toml:13: mode.data.kind: no dataset named 'two_moons'; known are 'pictures'"
    assert data == text
