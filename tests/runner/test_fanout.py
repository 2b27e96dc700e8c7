"""A run in blocks: together they are what one block would be, and what is finished stays."""

import json
import shutil
from collections import Counter

import attrs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from align.catalog.registry import load_catalog
from align.core.errors import PartError
from align.modes.sampling.best_of_n import BestOfN
from align.modes.studies.tilt_check import TiltCheck
from align.recipe import Arm, load
from align.runner import worker
from align.runner.session import run
from align.runner.store import BlockStore
from align.runner.worker import RunJob, shared_steps, tasks_of

MODEL = """\
[model]
kind = "mixture"
weights = [0.4, 0.6]
means = [[-2.0, 0.0], [2.0, 1.0]]
stds = [0.5, 0.7]

[[reward]]
kind = "likelihood"
matrix = [[1.0, 0.5]]
observed = [1.5]
std = 0.5
normalise = "zscore"

[sampler]
kind = "mfm"

[estimator]
kind = "stein"
draws = 2

[[metric]]
kind = "sliced_wasserstein"
projections = 8

[mode]
kind = "steer"
steps = 3
"""
ARMS = """
[[compare]]
name = "plain"
mode = { kind = "best_of_n", flow_steps = 3 }

[[compare]]
name = "steered"

[[compare]]
name = "best of 3"
mode = { kind = "best_of_n", flow_steps = 3, n = 3 }
"""
RECIPE = "[run]\nsamples = 10\nunsteered = 32\n\n" + MODEL + ARMS
IN_BLOCKS = RECIPE.replace("samples = 10", "samples = 10\nblock = 4")


@pytest.fixture(scope="module", autouse=True)
def unreported():
    """Runs without their reports, which take longer than such runs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("align.runner.session.reported", lambda folder: ())
        yield


@pytest.fixture(scope="module")
def catalog():
    return load_catalog([])


@pytest.fixture(scope="module")
def go(catalog, tmp_path_factory):
    def gone(recipe, *sets, out=None):
        folder = tmp_path_factory.mktemp("run")
        (folder / "r.toml").write_text(recipe)
        sets = [*sets, f'run.out="{out or folder / "out"}"']
        return run(folder / "r.toml", sets=sets, progress=False, catalog=catalog)

    return gone


@pytest.fixture(scope="module")
def whole(go):
    return go(RECIPE)


@pytest.fixture(scope="module")
def cut(go):
    return go(IN_BLOCKS)


def numbers(folder):
    return json.loads((folder / "results.json").read_text())


def test_blocks_are_together_what_one_block_is(whole, cut):
    for one, other in zip(whole.results, cut.results, strict=True):
        assert torch.allclose(one.x1, other.x1, rtol=1e-9)
        assert torch.allclose(one.data, other.data, rtol=1e-9)
        assert torch.allclose(one.scores["likelihood"], other.scores["likelihood"], rtol=1e-9)
        assert one.metrics == pytest.approx(other.metrics, rel=1e-9)
        assert one.samples == other.samples == 10
        assert one.divergence.reward == pytest.approx(other.divergence.reward)
        assert one.divergence.at_most == pytest.approx(other.divergence.at_most)
        assert one.departure.residual == pytest.approx(other.departure.residual)


def test_costs_of_blocks_add_up(whole, cut):
    for one, other in zip(whole.results, cut.results, strict=True):
        assert one.cost.calls == other.cost.calls
        assert one.cost.reward_calls == other.cost.reward_calls
        assert other.cost.flops == pytest.approx(one.cost.flops, rel=0.1)
        assert other.cost.seconds > 0
        assert one.plan.calls == other.plan.calls


def test_curves_are_means_over_all_blocks(whole, cut):
    lines = [
        sorted((folder / "metrics.jsonl").read_text().splitlines())
        for folder in (whole.folder, cut.folder)
    ]
    assert len(lines[0]) == len(lines[1]) == 1 + 3 + 3
    for one, other in zip(*lines, strict=True):
        one, other = json.loads(one), json.loads(other)
        assert {key: one.pop(key) for key in ("arm", "step")} == {
            key: other.pop(key) for key in ("arm", "step")
        }
        assert one == pytest.approx(other)


def test_finished_run_has_one_file_of_states_and_no_blocks(whole, cut):
    assert not (cut.folder / "blocks").exists()
    for one, other in zip(*(sorted(r.folder.glob("samples/*")) for r in (whole, cut)), strict=True):
        states = [load_file(folder / "states.safetensors")["x1"] for folder in (one, other)]
        assert torch.allclose(*states, rtol=1e-9)
        assert states[0].dtype == states[1].dtype


def test_tasks_depend_on_the_recipe_alone_and_cover_each_sample_once(catalog, tmp_path):
    (tmp_path / "r.toml").write_text(IN_BLOCKS)
    recipe = load(tmp_path / "r.toml", catalog=catalog).recipe
    tasks = tasks_of(recipe)
    assert tasks == tasks_of(recipe)
    assert tasks[0].arms == ()
    made = Counter(
        (arm, number)
        for task in tasks
        for arm in task.arms
        for number in range(task.first, task.first + task.count)
    )
    assert made == Counter((arm, number) for arm in range(3) for number in range(10))
    assert [task.arms for task in tasks[1:4]] == [(0, 2)] * 3  # best of 3 goes on from plain
    assert tasks[1].name == "samples 0 to 3 of 'plain', 'best of 3'"


def test_samples_that_depend_on_each_other_are_one_block(catalog, tmp_path):
    (tmp_path / "r.toml").write_text(IN_BLOCKS)
    sets = ['compare[2].mode.pool="shared"']
    recipe = load(tmp_path / "r.toml", sets=sets, catalog=catalog).recipe
    sizes = {task.arms: task.count for task in tasks_of(recipe)}
    assert sizes == {(): 0, (0,): 2, (1,): 2, (2,): 10}


def test_any_order_of_tasks_and_any_process_has_the_same_bits(cut, catalog, tmp_path):
    """Each task by a worker that has done nothing before, the last ones first."""
    (tmp_path / "out").mkdir()
    shutil.copy(cut.folder / "recipe.toml", tmp_path / "out" / "recipe.toml")
    job = RunJob(str(tmp_path / "out"), str(tmp_path), cache=False)
    recipe = load(cut.folder / "recipe.toml", catalog=catalog).recipe
    first, *tasks = tasks_of(recipe)
    for task in [first, *tasks[::-1]]:
        worker._opened.cache_clear()
        assert not job.is_done(task)
        job.perform(task)
        assert job.is_done(task)
    store = worker._store(job)
    for number, result in enumerate(cut.results):
        blocks = [store.read(number, task) for task in tasks if number in task.arms]
        assert torch.cat([block.x1 for block in blocks]).equal(result.x1)
        scores = torch.cat([block.scores["likelihood"] for block in blocks])
        assert scores.equal(result.scores["likelihood"])


@pytest.fixture
def stopped(go, tmp_path, monkeypatch):
    """A run that stops after some blocks, in its folder."""
    perform, done = worker.Worker.perform_arm, []

    def limited(self, number, task):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((number, task.first))
        perform(self, number, task)

    monkeypatch.setattr(worker.Worker, "perform_arm", limited)
    with pytest.raises(KeyboardInterrupt) as caught:
        go(IN_BLOCKS, out=tmp_path / "out")
    monkeypatch.undo()
    assert done == [(0, 0), (2, 0), (0, 4)]
    return tmp_path / "out", caught.value


def test_run_goes_on_from_its_finished_blocks(go, cut, stopped, monkeypatch):
    out, error = stopped
    if notes := getattr(error, "__notes__", ()):
        assert "keeps the 3 blocks that are finished" in notes[0]
    made, perform = [], worker.Worker.perform_arm

    def counted(self, number, task):
        made.append((number, task.first))
        perform(self, number, task)

    monkeypatch.setattr(worker.Worker, "perform_arm", counted)
    again = go(IN_BLOCKS, out=out)
    assert (0, 0) not in made and (2, 0) not in made
    assert len(made) == 7
    for one, other in zip(cut.results, again.results, strict=True):
        assert one.x1.equal(other.x1)
        assert one.metrics == other.metrics
    ours, theirs = (
        sorted((folder / "metrics.jsonl").read_text().splitlines()) for folder in (out, cut.folder)
    )
    assert ours == theirs


def test_damaged_block_is_made_anew(go, cut, stopped):
    out, _ = stopped
    for path in out.glob("blocks/plain/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
    again = go(IN_BLOCKS, out=out)
    assert again.results[0].x1.equal(cut.results[0].x1)
    assert "is damaged or of another run, and is made anew" in (out / "log.txt").read_text()


def test_block_that_is_gone_at_the_end_is_told(go, monkeypatch, tmp_path):
    write = BlockStore.write

    def lost(self, arm, task, block):
        write(self, arm, task, block)
        if task.first == 4:
            (tmp_path / "out" / "blocks" / "plain" / "0.safetensors").unlink(missing_ok=True)

    monkeypatch.setattr(BlockStore, "write", lost)
    with pytest.raises(PartError, match=r"'.*0\.safetensors' is gone or damaged; run the recipe"):
        go(IN_BLOCKS, out=tmp_path / "out")


PICTURES = """\
[run]
samples = 5
block = 2
unsteered = 0
npz = true
pictures_every = 0

[model]
kind = "torch"
file = "flow.py"
shape = [3, 4, 4]

[mode]
kind = "best_of_n"
flow_steps = 2

[[metric]]
kind = "image_statistics"
"""
FLOW = """\
from torch import nn


class Net(nn.Module):
    def forward(self, x, t):
        return 0.5 - x


def model():
    return Net()
"""


def test_pictures_of_blocks_are_read_from_the_disk_and_written_for_adm(catalog, tmp_path):
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "r.toml").write_text(PICTURES)
    folders = {}
    for block in (0, 2):
        sets = [f'run.out="{tmp_path / str(block)}"', f"run.block={block}"]
        folders[block] = run(tmp_path / "r.toml", sets=sets, progress=False, catalog=catalog)
    whole, cut = (folders[block].results[0] for block in (0, 2))
    assert cut._data is None and cut._x1 is None
    assert torch.allclose(whole.x1, cut.x1, rtol=1e-6)
    assert (whole.data - cut.data).abs().max() <= 0.51 / 255
    assert whole.metrics == pytest.approx(cut.metrics, rel=1e-6)
    assert len(cut.images) == 5
    with np.load(folders[2].folder / "samples" / "best_of_n" / "samples.npz") as archive:
        assert archive.files == ["arr_0"]
        assert archive["arr_0"].dtype == np.uint8
        assert archive["arr_0"].shape == (5, 4, 4, 3)
        assert (archive["arr_0"] == np.stack([np.asarray(picture) for picture in cut.images])).all()


MANY = (
    "[run]\nsamples = 20000\nblock = 1000\nunsteered = 0\n\n"
    + MODEL.replace('normalise = "zscore"\n', "")
    + """
[[compare]]
name = "plain"
mode = { kind = "best_of_n", flow_steps = 8 }

[[compare]]
name = "best of 2"
mode = { kind = "best_of_n", flow_steps = 8, n = 2 }
"""
)


@pytest.mark.slow
def test_many_samples_need_no_more_memory_than_few(go):
    """What adds up is kept of 20,000 samples, and no more is in memory at once than of 1,000."""
    few = go(MANY, "run.samples=2000")
    many = go(MANY)
    assert many.results[0].samples == 20000
    extra = many.results[0].cost.memory - few.results[0].cost.memory
    assert extra < 20e6  # bytes; 18,000 samples with their scores and steps take 4 of them


def test_arm_goes_on_from_one_before_only_where_rewards_have_the_same_weights():
    few, many = BestOfN(n=2), BestOfN(n=4)
    law, method = TiltCheck(), TiltCheck(method=few)
    for first, then, shared in ((few, many, 2), (law, method, 1), (law, many, 0)):
        before, after = (
            Arm(name="arm", model=None, sampler=None, estimator=None, mode=mode)
            for mode in (first, then)
        )
        assert shared_steps(after, before) == shared
        assert shared_steps(attrs.evolve(after, weights={"r": 2.0}), before) == 0
