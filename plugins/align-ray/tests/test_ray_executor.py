"""The blocks of a run by actors of a real Ray cluster, which is started here."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from align_ray.executor import RayActors

from align.core.errors import PartError
from align.testing.blocks import SmallRun, bits, kept
from align.testing.checks.executor import Files, Told, _tasks


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return SmallRun(tmp_path_factory.mktemp("small"), "align_ray")


@pytest.fixture(scope="module")
def here(small):
    return bits(small.made("here").folder)


def test_actor_that_is_killed_in_the_middle_of_a_block_costs_that_block(small, here):
    there = small.made("there", '{ kind = "ray", workers = 1 }', killed=True)
    assert bits(there.folder) == here


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 7])
def test_any_number_of_actors_makes_the_same_bits(small, here, workers):
    there = small.made(f"of {workers}", f'{{ kind = "ray", workers = {workers} }}')
    assert bits(there.folder) == here


@pytest.mark.slow
def test_driver_that_is_killed_takes_its_cluster_along_and_loses_no_block(small, here):
    command = [sys.executable, *small.driver("killed", '{ kind = "ray", workers = 1 }')]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert kept(small.folder / "killed")
    there = small.made("killed").folder
    assert "blocks are there from a run before" in (there / "log.txt").read_text()
    assert bits(there) == here


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
    # Without a process around it, which Ray would take for the node process that is gone.
    alone = ["sh", "-c", '"$0" "$@" &', sys.executable, __file__, str(tmp_path)]
    ended = subprocess.run(alone, check=False, capture_output=True, text=True)
    assert (tmp_path / "told").exists(), ended.stderr
    assert (tmp_path / "told").read_text() == str([task.first for task in _tasks()])
    assert all(Files(str(tmp_path)).is_done(task) for task in _tasks())


def loses_a_node_process(folder):
    """What the process of the test above does."""
    told = Killing()
    RayActors(workers=1).run(Files(folder), _tasks(), told)
    Path(folder, "told").write_text(str(sorted(task.first for task in told.tasks)))


def test_cluster_that_is_not_there_is_told(tmp_path, monkeypatch):
    def init(**options):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(PartError) as error:
        RayActors(address="auto").run(Files(str(tmp_path)), _tasks(), Told())
    assert str(error.value) == "run.on.address: Ray cannot reach 'auto': nobody answers"


if __name__ == "__main__":
    loses_a_node_process(sys.argv[1])
