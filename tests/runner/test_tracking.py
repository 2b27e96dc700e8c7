"""Trackers of a run: what they are told, and that they never end it."""

import json
from typing import ClassVar

import attrs
import numpy as np
import pytest

from align.catalog.hookspecs import hookimpl
from align.catalog.registry import load_catalog
from align.core.errors import PartError, RecipeError
from align.core.option import option
from align.core.tracker import ArmTracker, Tracker
from align.recipe import load
from align.report.schema import read
from align.runner.session import run

pytestmark = pytest.mark.usefixtures("unpainted")
RECIPE = """\
[run]
samples = 2
unsteered = 0
trackers = {trackers}

[model]
kind = "mixture"
weights = [0.5, 0.5]
means = [[-2.0, 0.0], [2.0, 0.0]]
stds = [0.5, 0.5]

[[reward]]
kind = "likelihood"
matrix = [[1.0, 0.0]]
observed = [1.5]
std = 1.0

[mode]
kind = "best_of_n"
n = 2
flow_steps = 2

[[compare]]
name = "as it is"

[[compare]]
name = "best of 3"
mode.n = 3
"""


@attrs.frozen
class Arm(ArmTracker):
    spec: Tracker
    told: list

    def numbers(self, index, numbers):
        self.spec.fail("numbers")
        self.told.append((index, dict(numbers)))

    def picture(self, index, picture):
        self.told.append((index, picture))

    def close(self, numbers, *, failed):
        self.spec.fail("close")
        self.told.append((failed, numbers))


@attrs.frozen(kw_only=True)
class Memory(Tracker):
    """Remembers."""

    kind: ClassVar[str] = "memory"
    arms: ClassVar[dict] = {}
    fails: str = option("where it fails", default="")
    error: str = option("with what", default="OSError")
    missing: bool = option("whether its package is missing", default=False)

    def __attrs_post_init__(self):
        if self.missing:
            raise ValueError("lost is not installed; pip install 'align-lost'")

    def fail(self, where):
        if where == self.fails:
            known = {"OSError": OSError(28, "No space left"), "exit": SystemExit(3)}
            raise known.get(self.error, PartError("the service is away"))

    def open(self, arm):
        self.fail("open")
        self.arms.setdefault(arm.name, (arm, told := []))
        return Arm(self, told)


class Plugin:
    @hookimpl
    def align_trackers(self):
        return [Memory]


@pytest.fixture(scope="module")
def catalog():
    class Point:
        name, value, dist = "memory", "memory", None

        def load(self):
            return Plugin()

    return load_catalog([Point()])


@pytest.fixture
def go(catalog, tmp_path):
    def gone(trackers, **options):
        Memory.arms.clear()
        (tmp_path / "r.toml").write_text(RECIPE.format(trackers=trackers))
        sets = [f'run.out="{tmp_path}/out"']
        result = run(tmp_path / "r.toml", sets=sets, progress=False, catalog=catalog, **options)
        return result.folder

    return gone


def test_tracker_is_told_every_step_and_the_results_of_every_arm(go):
    folder = go('["memory"]')
    results = {arm.name: arm for arm in read(folder).arms}
    assert Memory.arms.keys() == results.keys()
    for name, (facts, told) in Memory.arms.items():
        steps, (failed, final) = told[:-1], told[-1]
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        lines = [line for line in lines if line.pop("arm") == name]
        assert steps == [(line.pop("step"), line) for line in lines]
        assert not failed
        scores = results[name].scores["likelihood"]
        assert final["likelihood"] == pytest.approx(np.mean(scores))
        assert final["likelihood error"] > 0 and final["network calls"] == results[name].cost.nfe
        assert (facts.run, facts.name, facts.alone, facts.first) == ("out", name, False, 0)
        assert facts.tables["mode"]["n"] == len(steps) and "compare" not in facts.tables
        assert facts.recipe == (folder / "recipe.toml").read_text()


@pytest.mark.parametrize(
    ("where", "error"),
    [("open", "OSError"), ("numbers", "exit"), ("numbers", "AlignError"), ("close", "OSError")],
)
def test_tracker_that_fails_is_named_once_and_the_run_goes_on(go, where, error):
    folder = go(f'[{{ kind = "memory", fails = "{where}", error = "{error}" }}]')
    assert json.loads((folder / "about.json").read_text())["status"] == "done"
    log = (folder / "log.txt").read_text()
    assert log.count("tracker 'memory' is told no more about this run, which goes on: ") == 1
    assert read(folder).arms[1].samples == 2


def test_other_trackers_are_told_on_where_one_fails(go):
    go('["memory", { kind = "memory", fails = "numbers" }]')
    assert [told[-1][0] for _, told in Memory.arms.values()] == [False, False]


def test_run_that_fails_closes_its_trackers_as_failed(go, monkeypatch):
    def broken(self, problem, state):
        raise PartError("broken")

    monkeypatch.setattr("align.modes.sampling.best_of_n.BestOfN.finish", broken)
    with pytest.raises(PartError):
        go('["memory"]')
    ((_, told),) = Memory.arms.values()
    assert told[-1] == (True, {})


def test_package_that_is_missing_is_a_mistake_of_the_recipe(catalog, tmp_path):
    wrong = '["memory", { kind = "memory", missing = true }, "memry"]'
    (tmp_path / "r.toml").write_text(RECIPE.format(trackers=wrong))
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "r.toml", catalog=catalog)
    missing, unknown = str(caught.value).splitlines()
    assert missing.endswith(
        "r.toml:4: run.trackers[1]: lost is not installed; pip install 'align-lost'"
    )
    assert unknown.endswith("run.trackers[2]: no tracker named 'memry'; did you mean 'memory'?")


def test_trackers_are_no_part_of_what_a_run_is(go):
    assert go("[]") == go('["memory"]')
