"""The blocks of a run by actors of a real Ray cluster, which is started here."""

import json
import os
import signal
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from align_ray.executor import RayActors

from align.catalog.registry import load_catalog
from align.core.errors import PartError
from align.runner.session import run
from align.testing.checks.executor import Files, Told, _tasks

RECIPE = """\
[run]
samples = 10
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

[mode]
kind = "best_of_n"
flow_steps = 5
n = 2
"""
# A reward that ends the first process which scores a block; the marker is seen once.
REWARD = """\
import os, signal
from pathlib import Path

MARKER = Path(__file__).with_name("marker")


def right(data, prompts):
    if len(data) == 8 and MARKER.exists():
        MARKER.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return data[:, 0]
"""


def bits(folder):
    """Bytes of the samples, and scores."""
    numbers = json.loads((folder / "results.json").read_text())
    states = {p.parent.name: p.read_bytes() for p in folder.glob("samples/*/states.safetensors")}
    return states, [arm["scores"] for arm in numbers["arms"]], [a["files"] for a in numbers["arms"]]


def test_actor_that_is_killed_in_the_middle_of_a_block_costs_that_block(tmp_path, monkeypatch):
    # The report is not what is tried here, and takes longer than the run.
    monkeypatch.setattr("align.runner.session.reported", lambda folder: ())
    (tmp_path / "reward.py").write_text(REWARD)
    (tmp_path / "r.toml").write_text(RECIPE.format(file=tmp_path / "reward.py"))
    catalog = load_catalog([EntryPoint("ray", "align_ray", "align")])

    def go(name, *sets):
        sets = [f'run.out="{tmp_path / name}"', *sets]
        return run(tmp_path / "r.toml", sets=sets, progress=False, catalog=catalog).folder

    here = go("here")
    (tmp_path / "marker").touch()
    there = go("there", 'run.on={ kind = "ray", workers = 1 }')
    assert not (tmp_path / "marker").exists()
    assert bits(there) == bits(here)


class Killing(Told):
    """Kills the node process of the local cluster after the first task."""

    def done(self, task):
        super().done(task)
        if len(self.tasks) == 1:
            (raylet,) = raylets()
            os.kill(raylet, signal.SIGKILL)


def raylets():
    """The node processes of the cluster that this process has started."""
    import ray

    session = ray._private.worker.global_worker.node.get_session_dir_path().encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if command.partition(b"\0")[0].endswith(b"raylet/raylet") and session in command:
            found.append(int(folder.name))
    return found


def test_node_process_that_is_killed_is_started_again_and_no_task_is_told_twice(tmp_path):
    told, job = Killing(), Files(str(tmp_path))
    RayActors(workers=1).run(job, _tasks(), told)
    assert sorted(told.tasks, key=lambda task: task.first) == _tasks()
    assert all(job.is_done(task) for task in _tasks())


def test_cluster_that_is_not_there_is_told(tmp_path, monkeypatch):
    def init(**options):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(PartError) as error:
        RayActors(address="auto").run(Files(str(tmp_path)), _tasks(), Told())
    assert str(error.value) == "run.on.address: Ray cannot reach 'auto': nobody answers"
