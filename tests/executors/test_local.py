"""Blocks of a run in processes on this machine."""

import os
import re
import signal

import pytest
from click.testing import CliRunner

from align.cli.main import main
from align.core.errors import PartError
from align.core.executor import Job, Task
from align.executors.local import Local
from align.testing.blocks import BLOCKS, SmallRun, bits, kept
from align.testing.checks.executor import Told


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return SmallRun(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def here(small):
    return small.made("here")


def test_two_processes_make_the_same_bits_though_one_is_killed_in_the_middle_of_a_part(small, here):
    there = small.made("two", '{ kind = "local", workers = 2 }', killed=True)
    assert "(signal SIGKILL); they are made again" in (there.folder / "log.txt").read_text()
    assert bits(there.folder) == bits(here.folder)
    assert not (there.folder / "blocks").exists()
    assert there.results[1].x1.equal(here.results[1].x1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_any_number_of_processes_makes_the_same_bits(small, here, workers):
    there = small.made(f"of {workers}", f'{{ kind = "local", workers = {workers} }}')
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


def test_killed_driver_loses_no_finished_part(small, here, forked):
    driver = forked(*small.driver("killed", '{ kind = "local", workers = 1 }'))
    assert driver.ended() == -signal.SIGKILL, driver.stderr
    count = kept(small.folder / "killed")
    assert count > 1  # a task is of two arms
    there = small.made("killed").folder
    # A part is of two arms, and one of them may be there alone. The worker that was left behind may
    # also end a part before it sees that nobody waits for it.
    found = re.search(
        rf"(\d+) of {BLOCKS} blocks are there from a run", (there / "log.txt").read_text()
    )
    assert count - 1 <= int(found[1]) <= count + 2
    assert bits(there) == bits(here.folder)


def test_option_on_names_who_makes_the_parts(small, tmp_path):
    arguments = ["run", str(small.recipe), "--on", "lokal"]
    result = CliRunner().invoke(main, [*arguments, "--set", f'run.out="{tmp_path / "out"}"'])
    assert result.exit_code == 2
    assert "run.on" in result.stderr
    assert "no executor named 'lokal'; did you mean 'local'?" in result.stderr
    assert not (tmp_path / "out").exists()
