"""Pictures of a folder that are scored in blocks, whoever does them."""

import pickle
import signal

import attrs
import pytest
import torch
from click.testing import CliRunner

from align.cli.main import main
from align.core.errors import ContractError, PartError, TakenError, UserInterrupt
from align.core.executor import Executor, performed
from align.core.interrupt import user_interrupts
from align.core.metric import Metric
from align.core.term import RewardTerm
from align.io.images import save_picture, to_bytes
from align.io.listed_pictures import listed_pictures
from align.metrics.fid import FID
from align.metrics.statistics import ImageStatistics
from align.metrics.variety import Vendi
from align.recipe.scoring import Scoring
from align.rewards.compressibility import Compressibility
from align.runner.record import held
from align.runner.score import FILES, score_pictures
from tests.metrics.networks import Small, pictures

COUNT = 15


@attrs.frozen(kw_only=True)
class Shares(Executor):
    """Several workers in this process, each with a copy of the job; the last begins."""

    kind = "shares"
    workers: int
    most: int = 99

    def run(self, job, tasks, watch):
        """Have tasks done, at most so many; then Ctrl-C ends all."""
        for number, first in enumerate(reversed(range(self.workers))):
            mine = pickle.loads(pickle.dumps(job))
            for task in tasks[first :: self.workers]:
                if number >= self.most:
                    signal.raise_signal(signal.SIGINT)
                if failure := performed(mine, task):
                    raise failure.error(task.name)
                watch.done(task)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("align.runner.score._BLOCK", 2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "mine"
    place.mkdir()
    for number, picture in enumerate(to_bytes(pictures(COUNT))):
        save_picture(place / f"{number:02}.png", picture)
    return place


def scored(folder, name, on=None, metrics=(), device="cpu"):
    """What is written of the pictures, and how many at a time were told."""
    told = []
    scoring = Scoring(
        (RewardTerm(name="small", weight=1.0, part=Compressibility()),),
        (Vendi(features=Small()), ImageStatistics(), *metrics),
        on,
    )
    out = folder.parent / name
    with user_interrupts():
        score_pictures(listed_pictures(folder, None)[0], scoring, out, device, told.append)
    assert sum(told) == COUNT
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    return [(out / file).read_bytes() for file in FILES], told


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_any_number_of_workers_writes_the_same_bytes(folder, workers):
    reference = FID(features=Small(), reference=str(folder))
    here, _ = scored(folder, "here", metrics=[reference])
    assert scored(folder, "there", Shares(workers=workers), [reference])[0] == here


def test_what_is_scored_before_an_end_in_the_middle_is_not_scored_again(folder):
    whole, _ = scored(folder, "whole")
    with pytest.raises(UserInterrupt) as error:
        scored(folder, "cut", Shares(workers=3, most=2))
    assert error.value.__notes__ == [
        f"what is scored is in '{folder.parent / 'cut'}', and the same command goes on"
    ]
    parts = sorted((folder.parent / "cut" / "score_blocks").iterdir())
    assert len(parts) == 5
    parts[0].write_bytes(b"damaged")
    again, told = scored(folder, "cut")
    assert again == whole
    assert told == [7, 2, 2, 2, 2]


@pytest.mark.parametrize("what", ["picture", "part"])
def test_what_is_scored_of_other_pictures_or_by_other_parts_is_scored_again(folder, what):
    with pytest.raises(UserInterrupt):
        scored(folder, "cut", Shares(workers=3, most=2))
    if what == "picture":
        save_picture(folder / "00.png", to_bytes(pictures(1, seed=1))[0])
    metrics = [ImageStatistics(edge=0.5)] if what == "part" else []
    again, told = scored(folder, "cut", metrics=metrics)
    assert told == [2, 2, 2, 2, 2, 2, 2, 1]
    assert again == scored(folder, "new", metrics=metrics)[0]


def test_executor_that_leaves_blocks_undone_is_told(folder):
    @attrs.frozen(kw_only=True)
    class Idle(Executor):
        kind = "idle"

        def run(self, job, tasks, watch):
            """Do nothing."""

    with pytest.raises(ContractError, match="'idle' has ended without scores of pictures 1 to 2;"):
        scored(folder, "out", Idle())
    assert not (folder.parent / "out").exists()


def test_folder_that_another_process_writes_is_refused(folder, tmp_path):
    with held(tmp_path / "out", "another"), pytest.raises(TakenError) as error:
        scored(folder, "out")
    assert str(error.value).startswith(f"--out: '{tmp_path / 'out'}' is in use by process")
    assert "choose another folder by --out" in str(error.value)


def test_metric_that_keeps_pictures_refuses_several_sizes(folder):
    class Kept(Metric):
        kind, domain, needs_references = "kept", "image", False

        def compute(self, samples, references):
            return {}

    save_picture(folder / "05.png", to_bytes(torch.zeros(1, 3, 5, 9))[0])
    with pytest.raises(PartError, match="'kept' takes samples of one size alone"):
        scored(folder, "out", metrics=[Kept()])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_processes_write_the_same_bytes_though_one_is_killed(folder, tmp_path, workers):
    (tmp_path / "dying.py").write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "MARKER = Path(__file__).with_name('marker')\n"
        "def bright(data, prompts):\n"
        "    if MARKER.exists():\n"
        "        MARKER.unlink()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return data.mean((1, 2, 3))\n"
    )

    def invoke(out, *arguments):
        dying = '{ kind = "python", file = "dying.py", function = "bright" }'
        command = ["score", "mine", "--reward", dying, "--metric", "image_statistics"]
        done = CliRunner().invoke(main, [*command, "--out", out, *arguments])
        assert done.exit_code == 0, done.output
        return done.stderr, [(tmp_path / out / file).read_bytes() for file in FILES]

    _, here = invoke("here")
    (tmp_path / "marker").touch()
    said, there = invoke("there", "--on", f'{{ kind = "local", workers = {workers} }}')
    assert f"({signal.SIGKILL.name}); they are made again" in said.replace("signal ", "")
    assert there == here
