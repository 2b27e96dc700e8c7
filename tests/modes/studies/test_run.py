"""A study as a recipe runs it: its record, and what its arms share."""

import json

import pytest
from click.testing import CliRunner

from align.catalog.registry import load_catalog
from align.cli.main import main
from align.runner.session import run

pytestmark = pytest.mark.usefixtures("unpainted")
MODEL = """
[run]
samples = 8
out = "{out}"
[model]
kind = "mixture"
weights = [0.3, 0.45, 0.25]
means = [[-2.0], [0.5], [2.5]]
stds = [0.4, 0.7, 0.3]
[sampler]
kind = "exact"
"""
RECOVERY = """
[mode]
kind = "posterior_recovery"
metric = { kind = "sliced_wasserstein" }
times = [0.5]
[[compare]]
name = "exact"
[[compare]]
name = "other data"
mode.data_model = { kind = "mixture", weights = [1.0], means = [[9.0]], stds = [0.1] }
"""
CORRELATION = """
[[reward]]
kind = "likelihood"
matrix = [[1.0]]
observed = [1.0]
std = 0.6
[mode]
kind = "value_correlation"
times = [0.5]
particles = 4
rollout_steps = 3
flow_steps = 2
draws = 2
inner_steps = [1, 2]
[[compare]]
name = "exact"
[[compare]]
name = "GLASS"
sampler = { kind = "glass" }
[[compare]]
name = "other rollouts"
mode.particles = 5
"""


@pytest.fixture
def go(tmp_path):
    catalog = load_catalog()

    def ran(text):
        recipe = tmp_path / "study.toml"
        recipe.write_text(MODEL.format(out=tmp_path / "run") + text)
        return run(recipe, progress=False, catalog=catalog)

    return ran


def test_rollouts_are_run_once_for_arms_that_differ_in_their_sampler(go):
    exact, glass, other = go(CORRELATION).results
    assert exact.cost.calls["network"] == 8 * (2 + 4 * 3)
    assert glass.cost.calls["network"] == 8 * 2 * (1 + 2)
    assert other.cost.calls["network"] == 8 * (2 + 5 * 3)
    assert [point.calls for point in glass.findings.points] == [1, 2]
    assert exact.findings.notes == glass.findings.notes != other.findings.notes


def test_findings_are_in_the_record(go):
    result = go(RECOVERY)
    arms = json.loads((result.folder / "results.json").read_text())["arms"]
    near, far = (arm["findings"]["points"] for arm in arms)
    assert [(p["panel"], p["calls"]) for p in near] == [("t = 0.5", 0)]
    assert near[0]["value"] < 1
    assert far[0]["value"] == result.results[1].findings.points[0].value > 5
    origins = json.loads((result.folder / "about.json").read_text())["origins"]
    assert "align.metrics.sliced_wasserstein.SlicedWasserstein" in origins
    assert "align.models.mixture.Mixture" in origins
    shown = CliRunner().invoke(main, ["report", str(result.folder)])
    assert shown.exit_code == 0, shown.output
    head, *rows, page = shown.output.splitlines()
    assert page == str(result.folder / "report.html")
    assert head.split() == ["sliced_wasserstein", "NFE", "a", "draw", "t", "=", "0.5"]
    assert [row.split()[0] for row in rows] == ["exact", "other"]
