"""The blocks of a run as jobs of submitit: in this process, and in processes on this machine."""

from pathlib import Path

import pytest
from align_slurm.executor import Slurm

from align.core.errors import PartError
from align.testing.blocks import SmallRun, bits
from align.testing.checks.executor import Files, Told, _tasks

# Submitit's debug executor leaves its files of output open.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return SmallRun(tmp_path_factory.mktemp("small"), "align_slurm")


@pytest.fixture(scope="module")
def here(small):
    return bits(small.made("here").folder)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_any_number_of_jobs_in_this_process_makes_the_same_bits(small, here, workers):
    on = f'{{ kind = "slurm", cluster = "debug", workers = {workers} }}'
    assert bits(small.made(f"of {workers}", on).folder) == here


def test_job_that_is_killed_in_the_middle_of_a_block_is_sent_again(small, here):
    on = '{ kind = "slurm", cluster = "local", workers = 1 }'
    there = small.made("again", on, killed=True).folder
    assert "were left undone by their jobs, and are sent again" in (there / "log.txt").read_text()
    assert bits(there) == here
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
