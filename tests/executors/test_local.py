"""Blocks of a run in processes on this machine."""

import json
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from align.catalog.registry import load_catalog
from align.cli.main import main
from align.core.errors import PartError
from align.core.executor import Job, Task
from align.executors.local import Local
from align.runner.session import run
from align.testing.checks.executor import Told

RECIPE = """\
[run]
samples = 20
block = 4
unsteered = 32
device = "cpu"

[model]
kind = "mixture"
weights = [0.4, 0.6]
means = [[-2.0, 0.0], [2.0, 1.0]]
stds = [0.5, 0.7]

[[reward]]
kind = "python"
file = "{file}"
function = "right"

[[metric]]
kind = "sliced_wasserstein"

[mode]
kind = "best_of_n"
flow_steps = 5

[[compare]]
name = "plain"

[[compare]]
name = "best of 2"
mode.n = 2

[[compare]]
name = "best of all"
mode = {{ n = 2, pool = "shared" }}
"""
# A reward whose process dies once, in the middle of a block: it is the first to see the marker.
REWARD = """\
import os, signal
from pathlib import Path

MARKER = Path(__file__).with_name("marker")


def right(data, prompts):
    if len(data) == 4 and MARKER.exists():
        MARKER.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return data[:, 0]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "reward.py").write_text(REWARD)
    (folder / "r.toml").write_text(RECIPE.format(file=folder / "reward.py"))
    return folder / "r.toml"


@pytest.fixture(scope="module", autouse=True)
def unreported():
    """Runs without their reports, which take longer than such runs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("align.runner.session.reported", lambda folder: ())
        yield


@pytest.fixture(scope="module")
def go(recipe, tmp_path_factory):
    def gone(*sets):
        out = tmp_path_factory.mktemp("run") / "out"
        sets = [*sets, f'run.out="{out}"']
        return run(recipe, sets=sets, progress=False, catalog=load_catalog([]))

    return gone


@pytest.fixture(scope="module")
def here(go):
    return go()


def bits(folder):
    """Bytes of the samples, and the numbers that do not depend on who made them."""
    numbers = json.loads((folder / "results.json").read_text())
    for arm in numbers["arms"]:
        cost = arm["cost"].items()
        arm["cost"] = {k: v for k, v in cost if "seconds" not in k and k != "memory"}
        arm.pop("plan")
    states = {p.parent.name: p.read_bytes() for p in folder.glob("samples/*/states.safetensors")}
    return states, numbers["arms"], sorted((folder / "metrics.jsonl").read_text().splitlines())


def test_two_processes_make_the_same_bits_though_one_is_killed_in_the_middle_of_a_part(
    go, here, recipe
):
    recipe.with_name("marker").touch()
    there = go('run.on={ kind = "local", workers = 2 }')
    assert not recipe.with_name("marker").exists()
    assert "(signal SIGKILL); they are made again" in (there.folder / "log.txt").read_text()
    assert bits(there.folder) == bits(here.folder)
    assert not (there.folder / "blocks").exists()
    assert there.results[1].x1.equal(here.results[1].x1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_any_number_of_processes_makes_the_same_bits(go, here, workers):
    there = go(f'run.on={{ kind = "local", workers = {workers} }}')
    assert bits(there.folder) == bits(here.folder)


class Dies(Job):
    """A task that ends its process."""

    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        return _dies, (self.how,)

    def perform(self, task):
        raise AssertionError

    def is_done(self, task):
        return False


def _dies(how):
    return Dies(how)


def test_process_that_dies_each_time_ends_the_run_with_what_it_said(monkeypatch):
    # What unpickles the job in the process ends it, as a package that crashes would.
    monkeypatch.setattr(Dies, "__reduce__", lambda self: (os._exit, (3,)))
    with pytest.raises(PartError) as error:
        Local(workers=1, retries=0).run(Dies(3), [Task(name="samples 0 to 3 of 'a'")], Told())
    text = "run.on: the process that made samples 0 to 3 of 'a' died once (exit code 3); fewer of"
    assert str(error.value).startswith(text)


def test_killed_driver_loses_no_finished_part(recipe, here, tmp_path, forked):
    plugin = tmp_path / "dying.py"
    plugin.write_text(
        "import os, signal\n"
        "from align.runner import fanout\n"
        "done = fanout.Fanout.done\n"
        "def dies(self, task):\n"
        "    done(self, task)\n"
        "    if task.arms: os.kill(os.getpid(), signal.SIGKILL)\n"
        "fanout.Fanout.done = dies\n"
        "from align.cli.main import main\n"
        "import sys\n"
        "main(sys.argv[1:])\n"
    )
    out, on = tmp_path / "out", 'run.on={ kind = "local", workers = 1 }'
    arguments = ["run", str(recipe), "--set", on, "--set", f'run.out="{out}"']
    driver = forked(str(plugin), *arguments)
    assert driver.ended() == -signal.SIGKILL
    kept = [*out.glob("blocks/best_of_2/*.safetensors")]  # the last file of a task of both arms
    assert kept
    result = CliRunner().invoke(main, ["run", str(recipe), "--set", f'run.out="{out}"'])
    assert result.exit_code == 0, result.output
    assert f"{2 * len(kept)} of 11 blocks are there from a run before" in result.stderr
    assert bits(out) == bits(here.folder)


def test_option_on_names_who_makes_the_parts(recipe, tmp_path):
    arguments = ["run", str(recipe), "--on", "lokal", "--set", f'run.out="{tmp_path / "out"}"']
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "run.on" in result.stderr
    assert "no executor named 'lokal'; did you mean 'local'?" in result.stderr
    assert not Path(tmp_path / "out").exists()
