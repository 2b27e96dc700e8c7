"""The run folder."""

import io
import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from align.core.errors import PartError
from align.core.mode import Info
from align.io.files import write
from align.io.images import save_picture
from align.report.schema import ArmNumbers, RunResults, read, recipe_digest
from align.runner.folder import claim, slug
from align.runner.record import Record
from align.training import checkpoint

SAVED = {"done": 1, "meter": {"calls": {"network": 3}, "backward": {}}, "flops": 1, "state": {}}
RECIPE = '[run]\nseed = 0\nout = "runs/a"\n\n[mode]\nkind = "steer"\nsteps = 3\n'


def ended(record, status="done"):
    record.close(status)
    record.release()


@pytest.fixture
def record(tmp_path):
    record = Record.open(tmp_path / "run", RECIPE, {"a.B": "align-core 1"}, ["one", "two"])
    yield record
    ended(record)


def lines(record):
    return [json.loads(line) for line in (record.folder / "metrics.jsonl").read_text().splitlines()]


def about(folder):
    return json.loads((folder / "about.json").read_text())


@pytest.mark.parametrize("what", ["picture", "checkpoint"])
def test_pictures_and_checkpoints_are_whole_or_not_there(what, record, monkeypatch):
    picture = np.full((2, 2, 3), 7, np.uint8)
    save_picture(record.folder / "p.png", picture)
    record.checkpoint("one", SAVED)

    def half(_, file, *__):
        file.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(Image.Image, "save", half)
    monkeypatch.setattr(checkpoint.files, "write", lambda *_: half(None, io.BytesIO()))
    with pytest.raises((OSError, PartError), match="full"):
        if what == "picture":
            save_picture(record.folder / "p.png", picture * 2)
        else:
            record.checkpoint("one", {**SAVED, "done": 2})
    assert (np.asarray(Image.open(record.folder / "p.png")) == picture).all()
    assert record.saved("one")["done"] == SAVED["done"]
    assert not list(record.folder.rglob("*.part"))


def taken(out, recipe):
    """The folder that a run would have, which it lets go of."""
    ours = claim(out, recipe)
    ours.lock.release()
    return ours.folder


def test_run_takes_its_folder_or_one_beside_it(tmp_path):
    out = tmp_path / "a"
    assert taken(out, RECIPE) == out
    write(out / "recipe.toml", RECIPE)
    assert taken(out, RECIPE) == out
    assert taken(out, RECIPE.replace("runs/a", "elsewhere")) == out
    other = RECIPE.replace("seed = 0", "seed = 1")
    assert taken(out, other) == tmp_path / "a-2"
    write(tmp_path / "a-2" / "recipe.toml", other)
    assert taken(out, other) == tmp_path / "a-2"
    third = RECIPE + 'label = "x"\n'
    assert taken(out, third) == tmp_path / "a-3"


def test_only_the_runs_own_folder_is_left_out_of_the_comparison(tmp_path):
    # A part may have an option `out`.
    write(tmp_path / "a" / "recipe.toml", RECIPE + 'out = "x"\n')
    assert taken(tmp_path / "a", RECIPE + 'out = "y"\n') == tmp_path / "a-2"


def test_slug():
    assert slug("MFM-G, 4 draws") == "mfm_g_4_draws"
    assert slug("strength .5") == "strength_.5" != slug("strength 5")
    assert slug("../up") == "up"
    assert slug("σ²") == "arm"


def test_arms_with_like_names_have_folders_of_their_own(tmp_path):
    names = ["Best of 4", "best-of-4", "best of 4 2", "σ", "τ"]
    record = Record.open(tmp_path, RECIPE, {}, names)
    for number, name in enumerate(names):
        record.samples(name, torch.full((1, 2), float(number)), torch.zeros(1, 2))
    ended(record)
    folders = record.sample_folders()
    assert list(folders) == names
    for number, folder in enumerate(folders.values()):
        x1 = load_file(tmp_path / folder / "states.safetensors")["x1"]
        assert x1.tolist() == [[number, number]]


def test_weights_lie_in_the_folder_unless_there_are_several_arms(tmp_path, record):
    alone = Record.open(tmp_path / "alone", RECIPE, {}, ["distill"])
    assert alone.saved("distill") is None
    alone.checkpoint("distill", SAVED)
    ended(alone)
    assert (tmp_path / "alone" / f"checkpoint-{SAVED['done']}").is_dir()
    record.checkpoint("one", {**SAVED, "state": {"x": torch.ones(2)}})
    assert record.saved("two") is None
    tensors = {"x": torch.zeros(2)}
    checkpoint.fill(tensors, record.saved("one")["state"])
    assert tensors["x"].tolist() == [1, 1]


def test_about_says_how_it_goes(tmp_path, monkeypatch):
    words = ["align", "run", "a b.toml", "--set", 'run.out="x"']
    monkeypatch.setattr("sys.argv", words)
    record = Record.open(tmp_path, RECIPE, {"a.B": "align-core 1"}, ["one"])
    said = about(tmp_path)
    assert (said["status"], said["origins"]) == ("running", {"a.B": "align-core 1"})
    assert shlex.split(said["command"]) == words
    assert said["libraries"]["torch"] == torch.__version__
    assert (tmp_path / "recipe.toml").read_text() == RECIPE
    record.about(note="é")
    ended(record, "failed: PartError: no é")
    said = about(tmp_path)
    assert (said["status"], said["note"]) == ("failed: PartError: no é", "é")
    log = (tmp_path / "log.txt").read_text()
    assert "run begins in" in log
    assert log.endswith("run ends: failed: PartError: no é\n")
    ended(Record.open(tmp_path, RECIPE, {}, ["one"]))
    assert about(tmp_path)["status"] == "done"
    assert (tmp_path / "log.txt").read_text().startswith(log)


def test_finished_record_logs_nothing_more(tmp_path):
    first = Record.open(tmp_path / "a", RECIPE, {}, ["one"])
    ended(first)
    kept = (tmp_path / "a" / "log.txt").read_text()
    ended(Record.open(tmp_path / "b", RECIPE, {}, ["one"]))
    assert (tmp_path / "a" / "log.txt").read_text() == kept


def test_metrics_and_what_is_forgotten(record):
    record.forget_metrics("one", 0)
    assert not (record.folder / "metrics.jsonl").exists()
    for arm in ("one", "two"):
        for index in range(3):
            record.step(arm, index, Info({"reward": index / 2}))
    assert lines(record)[1] == {"arm": "one", "step": 1, "reward": 0.5}
    record.forget_metrics("one", 2)
    assert [(v["arm"], v["step"]) for v in lines(record)] == [
        ("one", 0),
        ("one", 1),
        ("two", 0),
        ("two", 1),
        ("two", 2),
    ]
    record.forget_metrics("two", 0)
    assert [v["arm"] for v in lines(record)] == ["one", "one"]


def test_a_line_that_a_killed_run_left_unfinished_is_forgotten(record):
    record.step("one", 0, Info({"reward": 1.0}))
    with (record.folder / "metrics.jsonl").open("a") as file:
        file.write('{"arm": "one", "st')
    record.forget_metrics("one", 5)
    record.step("one", 1, Info({"reward": 2.0}))
    assert [v["reward"] for v in lines(record)] == [1.0, 2.0]


def test_pictures_of_a_step(record):
    record.step("two", 4, Info({}, torch.ones(3, 1, 2, 2)))
    sheet = np.asarray(Image.open(record.folder / "looks" / "two" / "000005.png"))
    assert sheet.shape == (2, 6, 3)
    assert sheet.min() == 255


def test_samples_that_are_pictures(record):
    x1 = torch.arange(8.0).reshape(2, 4).requires_grad_(True)
    data = torch.stack((torch.zeros(3, 2, 2), torch.full((3, 2, 2), 0.6)))
    record.samples("one", x1, data)
    folder = record.folder / "samples" / "one"
    assert torch.equal(load_file(folder / "states.safetensors")["x1"], x1)
    assert sorted(p.name for p in folder.glob("*.png")) == ["0000.png", "0001.png"]
    assert np.unique(np.asarray(Image.open(folder / "0001.png"))).tolist() == [153]
    record.samples("two", x1, x1)
    assert not list((record.folder / "samples" / "two").glob("*.png"))


def test_given_pictures_are_kept_in_order(record):
    record.given({})
    assert not (record.folder / "given").exists()
    record.given({"known picture": torch.full((1, 2, 3), 0.2), "Aᵀ y": torch.full((3, 2, 3), 0.6)})
    paths = sorted((record.folder / "given").iterdir())
    assert [path.name for path in paths] == ["0_known_picture.png", "1_a_y.png"]
    shown = [np.asarray(Image.open(path)) for path in paths]
    assert [s.shape for s in shown] == [(2, 3, 3)] * 2
    assert [np.unique(s).tolist() for s in shown] == [[51], [153]]


def test_results_are_kept_in_the_folder(record):
    arms = tuple(
        ArmNumbers(name=name, folder=folder, samples=0)
        for name, folder in record.sample_folders().items()
    )
    record.results(RunResults(arms=arms, notes=("a note",)))
    results = read(record.folder)
    assert (results.arms, results.notes) == (arms, ("a note",))
    assert results.recipe == recipe_digest(RECIPE)


def test_standard_errors_of_a_step_stand_beside_its_numbers(record):
    record.step("one", 0, Info({"a": 1.0}, errors={"a": 0.5}))
    record.step("one", 1, Info({"a": 2.0}))
    assert lines(record)[0] == {"arm": "one", "step": 0, "a": 1.0, "errors": {"a": 0.5}}
    assert lines(record)[1] == {"arm": "one", "step": 1, "a": 2.0}
