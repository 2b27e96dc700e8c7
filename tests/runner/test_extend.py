"""`align extend`: a run with samples added is the run that had them from the start."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from align.catalog.registry import load_catalog
from align.core.errors import PartError, TakenError, UserInterrupt
from align.io.lock import Lock
from align.modes.distill.mode import Distill
from align.modes.sampling.steer import Steer
from align.report.schema import check_metrics, check_recipe, check_samples, read
from align.runner import extend as extending
from align.runner.extend import extend
from align.runner.fanout import Fanout
from align.runner.session import run

pytestmark = pytest.mark.usefixtures("unpainted")
RECIPE = """\
[run]
samples = 3
unsteered = 32
cache = false

[model]
kind = "mixture"
weights = [0.5, 0.5]
means = [[-2.0, 0.0], [2.0, 0.0]]
stds = [0.5, 0.5]

[sampler]
kind = "mfm"

[estimator]
kind = "gradient"
draws = 2

[[reward]]
kind = "likelihood"
normalise = "zscore"
matrix = [[1.0, 0.0]]
observed = [1.5]
std = 1.0

[[metric]]
kind = "sliced_wasserstein"

[mode]
kind = "steer"
steps = 4
dynamics = "sde"

[[compare]]
name = "steer"

[[compare]]
name = "plain"
mode = { kind = "best_of_n", n = 1, flow_steps = 4 }

[[compare]]
name = "best of 3"
mode = { kind = "best_of_n", n = 3, flow_steps = 4 }
"""


@pytest.fixture(scope="module")
def catalog():
    return load_catalog([])


@pytest.fixture(scope="module")
def whole(catalog, tmp_path_factory):
    """A run of a recipe with so many samples, made once."""
    folders = {}

    def made(samples, *sets):
        if (samples, *sets) not in folders:
            place = tmp_path_factory.mktemp("run")
            (place / "r.toml").write_text(RECIPE)
            more = [f"run.samples={samples}", f'run.out="{place}/run"', *sets]
            done = run(place / "r.toml", sets=more, progress=False, catalog=catalog)
            folders[samples, *sets] = done.folder
        return folders[samples, *sets]

    return made


@pytest.fixture
def few(whole, tmp_path):
    """A run with three samples, to be extended."""
    return shutil.copytree(whole(3), tmp_path / "run")


def more(folder, samples, catalog):
    return extend(folder, samples=samples, progress=False, catalog=catalog)


def states(folder, arm):
    return load_file(folder / arm.folder / "states.safetensors")["x1"]


def alike(folder, other):
    """Whether two runs have the same numbers, as far as rounding lets them."""
    one, two = read(folder), read(other)
    assert one.recipe == two.recipe
    for arm, same in zip(one.arms, two.arms, strict=True):
        assert arm.name == same.name and arm.samples == same.samples
        torch.testing.assert_close(states(folder, arm), states(other, same))
        for name, scores in same.scores.items():
            assert arm.scores[name] == pytest.approx(scores)
        assert arm.metrics == pytest.approx(same.metrics)
        for fact in ("reward", "at_least", "at_least_error", "at_most"):
            expected = getattr(same.divergence, fact)
            assert getattr(arm.divergence, fact) == pytest.approx(expected, rel=1e-5), fact
        assert arm.departure.residual == pytest.approx(same.departure.residual)
        assert (arm.notes, arm.cost.calls, arm.cost.reward_calls) == (
            same.notes,
            same.cost.calls,
            same.cost.reward_calls,
        )
    assert one.notes == two.notes
    for ours, theirs in zip(lines(folder), lines(other), strict=True):
        assert ours.pop("arm") == theirs.pop("arm")
        assert ours == pytest.approx(theirs)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def sound(folder):
    """Whether a folder holds a finished run and nothing else."""
    results = read(folder)
    check_recipe(folder, results)
    check_metrics(folder, results)
    for arm in results.arms:
        check_samples(folder, arm)
    assert not (folder / "extension").exists() and not (folder / "run.lock").exists()


def test_run_with_samples_added_twice_is_the_one_that_had_them_from_the_start(few, whole, catalog):
    assert more(few, 4, catalog) == ()
    assert more(few, 7, catalog) == ()
    sound(few)
    alike(few, whole(7))
    assert "run begins" in (few / "log.txt").read_text()
    assert json.loads((few / "about.json").read_text())["status"] == "done"


def test_samples_that_are_there_are_not_made_again(few, catalog, monkeypatch):
    before = {arm.name: states(few, arm) for arm in read(few).arms}
    rows, step = [], Steer.step

    def counted(self, problem, state, index, streams):
        rows.append(streams.samples)
        return step(self, problem, state, index, streams)

    monkeypatch.setattr(Steer, "step", counted)
    more(few, 5, catalog)
    assert set(rows) == {(3, 4)}
    for arm in read(few).arms:
        assert torch.equal(states(few, arm)[:3], before[arm.name])


CHECK = Fanout.check


def after_a_block(fanout):
    """Stop as after Ctrl-C, once samples were made beside those that there were."""
    fanout.observer.stopping = lambda: any(task.first for task in fanout._done)
    CHECK(fanout)


def test_extension_that_is_stopped_leaves_the_run_and_goes_on(few, whole, catalog, monkeypatch):
    content = {path.name: path.read_bytes() for path in few.glob("*.json*")}
    with monkeypatch.context() as patch:
        patch.setattr(Fanout, "check", after_a_block)
        with pytest.raises(UserInterrupt) as caught:
            more(few, 7, catalog)
    assert f"`align extend {few} --samples 7` goes on from there" in caught.value.__notes__[0]
    assert {path.name: path.read_bytes() for path in few.glob("*.json*")} == content
    with monkeypatch.context() as patch:
        patch.setattr(Steer, "step", None)  # whose block is there
        more(few, 7, catalog)
    sound(few)
    alike(few, whole(7))


def test_extension_that_is_killed_as_it_takes_its_place_takes_it_later(
    few, whole, catalog, monkeypatch
):
    with monkeypatch.context() as patch:
        replace, left = extending.Path.replace, [3]

        def killed(self, target):
            if "whole" in self.parts:
                if not left[0]:
                    raise UserInterrupt
                left[0] -= 1
            return replace(self, target)

        patch.setattr(extending.Path, "replace", killed)
        with pytest.raises(UserInterrupt):
            more(few, 7, catalog)
    more(few, 7, catalog)
    sound(few)
    alike(few, whole(7))


def test_extension_to_another_number_than_before_begins_anew(few, whole, catalog, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Fanout, "check", after_a_block)
        with pytest.raises(UserInterrupt):
            more(few, 9, catalog)
    more(few, 7, catalog)
    sound(few)
    alike(few, whole(7))


def test_run_that_has_so_many_samples_is_left_as_it_is(few, catalog):
    before = (few / "results.json").read_bytes()
    more(few, 3, catalog)
    assert (few / "results.json").read_bytes() == before
    with pytest.raises(PartError, match="has 3 samples already; name a number above that"):
        more(few, 2, catalog)


def test_samples_that_depend_on_each_other_are_refused(whole, catalog):
    folder = whole(3, "compare[2].mode.pool='shared'")
    with pytest.raises(PartError, match="samples of 'best of 3' depend on each other"):
        more(folder, 7, catalog)


def test_folder_that_another_process_uses_is_left_alone(few, catalog):
    lock = Lock.take(few, "")
    with pytest.raises(TakenError, match="is in use by process"):
        more(few, 7, catalog)
    lock.release()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("recipe.toml", "is not the recipe of results.json"),
        ("metrics.jsonl", "is not that of the results"),
    ],
)
def test_folder_that_was_changed_is_refused(few, catalog, name, text):
    content = (few / name).read_text().replace("0.5", "0.25").replace("step", "stop", 1)
    (few / name).write_text(content)
    with pytest.raises(PartError, match=text):
        more(few, 7, catalog)
    assert not (few / "run.lock").exists()


def test_other_versions_of_libraries_are_named(few, catalog):
    about = json.loads((few / "about.json").read_text())
    about["libraries"]["torch"] = "0.1"
    (few / "about.json").write_text(json.dumps(about))
    said = []
    from loguru import logger

    logger.enable("align")
    sink = logger.add(said.append, filter=lambda record: record["extra"].get("notice"))
    more(few, 4, catalog)
    logger.remove(sink)
    assert "the run was made with torch 0.1 (now " in said[0]


def test_folder_without_a_run_is_refused(tmp_path, catalog):
    with pytest.raises(PartError, match="holds no finished run"):
        more(tmp_path / "away", 7, catalog)


TRAINING = """\
[run]
checkpoint_every = 4

[model]
kind = "mixture"
weights = [0.4, 0.6]
means = [[-2.0, 0.0], [2.0, 1.0]]
stds = [0.5, 0.7]

[mode]
kind = "distill"
net = { kind = "mlp", width = 8, depth = 1 }
steps = 6

[mode.optimisation]
batch = 8
warmup = 2
decay = "none"
ema_decay = 0.9
"""


@pytest.fixture
def trained(catalog, tmp_path):
    """Train so many steps; returns the run folder."""

    def training(steps, *sets):
        (tmp_path / "r.toml").write_text(TRAINING)
        more = [f"mode.steps={steps}", f'run.out="{tmp_path}/{steps} steps"', *sets]
        return run(tmp_path / "r.toml", sets=more, progress=False, catalog=catalog).folder

    return training


def test_training_with_steps_added_is_the_one_that_had_them_from_the_start(
    trained, catalog, monkeypatch
):
    folder, other = trained(6, "mode.pool=8"), trained(11, "mode.pool=8")
    before = (folder / "metrics.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Distill, "finish", None)  # after the last step
        with pytest.raises(PartError):
            extend(folder, steps=11, progress=False, catalog=catalog)
    assert (folder / "metrics.jsonl").read_bytes() == before
    check_recipe(folder, read(folder))
    extend(folder, steps=11, progress=False, catalog=catalog)
    sound(folder)
    assert lines(folder) == lines(other)
    ours, theirs = (load_file(place / "model.safetensors") for place in (folder, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-11"]
    # One decodes for the pictures of its own last step, too.
    networks = [read(place).arms[0].cost.calls["network"] for place in (folder, other)]
    assert networks[0] == networks[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ('mode.optimisation.decay="cosine"', "its learning rate depends on the number of steps"),
        ("mode.times.diagonal_until=0.5", "its 'diagonal_until' is a share of all steps"),
        ("mode.pool=100", "its 'pool' is no larger than training is long"),
    ],
)
def test_training_whose_steps_depend_on_their_number_is_refused(trained, catalog, change, reason):
    folder = trained(4, "mode.pool=8", change)
    with pytest.raises(PartError, match=f"is another training from the start: {reason}"):
        extend(folder, steps=6, progress=False, catalog=catalog)


def test_samples_and_steps_are_added_to_what_has_them_alone(few, trained, catalog):
    with pytest.raises(PartError, match="'steer' does not train; --samples adds samples"):
        extend(few, steps=99, progress=False, catalog=catalog)
    with pytest.raises(PartError, match="'distill' trains; --steps has it train on"):
        extend(trained(2), samples=99, progress=False, catalog=catalog)
