"""The blocks of a run as jobs of submitit: in this process, and in processes on this machine."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from align_slurm.executor import Slurm

from align.catalog.registry import load_catalog
from align.core.errors import PartError
from align.runner.session import run
from align.testing.checks.executor import Files, Told, _tasks

# Submitit's debug executor leaves its files of output open.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
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


@pytest.fixture(scope="module")
def go(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "reward.py").write_text(REWARD)
    (folder / "r.toml").write_text(RECIPE.format(file=folder / "reward.py"))

    def gone(on="", marker=False):
        if marker:
            (folder / "marker").touch()
        out = tmp_path_factory.mktemp("run") / "out"
        sets = [f'run.out="{out}"', *([f"run.on={on}"] if on else [])]
        with pytest.MonkeyPatch.context() as patched:
            # The report is not what is tried here, and takes longer than the run.
            patched.setattr("align.runner.session.reported", lambda folder: ())
            catalog = load_catalog([EntryPoint("slurm", "align_slurm", "align")])
            run(folder / "r.toml", sets=sets, progress=False, catalog=catalog)
        assert not (folder / "marker").exists()
        return out

    return gone


@pytest.fixture(scope="module")
def here(go):
    return go()


def bits(folder):
    """Bytes of the samples, and scores."""
    numbers = json.loads((folder / "results.json").read_text())
    states = {p.parent.name: p.read_bytes() for p in folder.glob("samples/*/states.safetensors")}
    return states, [arm["scores"] for arm in numbers["arms"]], [a["files"] for a in numbers["arms"]]


def test_jobs_in_this_process_make_the_same_bits(go, here):
    assert bits(go('{ kind = "slurm", cluster = "debug", workers = 2 }')) == bits(here)


def test_job_that_is_killed_in_the_middle_of_a_block_is_sent_again(go, here):
    there = go('{ kind = "slurm", cluster = "local", workers = 1 }', marker=True)
    assert "were left undone by their jobs, and are sent again" in (there / "log.txt").read_text()
    assert bits(there) == bits(here)
    assert list(there.glob("jobs/*.out"))


class Undone(Files):
    """Tasks whose files never come."""

    def is_done(self, task):
        return False


def test_blocks_that_stay_undone_end_the_run(tmp_path):
    with pytest.raises(PartError, match="task 0 was left undone by 2 jobs, one after the other"):
        Slurm(cluster="debug", retries=1).run(Undone(str(tmp_path)), _tasks(), Told())


def test_options_reach_sbatch(tmp_path, monkeypatch):
    given = {}

    class Executor:
        def __init__(self, folder, cluster):
            given["folder"], given["cluster"] = folder, cluster

        def update_parameters(self, **parameters):
            given.update(parameters)

    monkeypatch.setattr("submitit.AutoExecutor", Executor)
    part = Slurm(
        partition="gpu", minutes=90, gpus=1, memory=40, threads=8, sbatch={"account": "mine"}
    )
    part.run(Files(str(tmp_path)), [], Told())
    assert given == {
        "folder": Path(tmp_path, "jobs"),
        "cluster": "slurm",
        "name": "align",
        "timeout_min": 90,
        "cpus_per_task": 8,
        "gpus_per_node": 1,
        "mem_gb": 40,
        "slurm_partition": "gpu",
        "slurm_additional_parameters": {"account": "mine"},
    }
