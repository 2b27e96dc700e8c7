"""The run folder."""

import json

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from align.core.baseline import Divergence
from align.core.mode import Info
from align.engine.meter import Cost
from align.io.files import write
from align.recipe import RewardTerm
from align.rewards.compressibility import Compressibility
from align.runner.record import (
    ArmResult,
    Record,
    folder_for,
    mosaic,
    save_picture,
    slug,
    to_bytes,
)

SAVED = {"done": 1, "meter": {"calls": {"network": 3}, "backward": {}}, "state": {}}
RECIPE = '[run]\nseed = 0\nout = "runs/a"\n\n[mode]\nkind = "steer"\nsteps = 3\n'


@pytest.fixture
def record(tmp_path):
    record = Record.open(tmp_path / "run", RECIPE, {"a.B": "align-core 1"}, ["one", "two"])
    yield record
    record.close("done")


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
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="full"):
        if what == "picture":
            save_picture(record.folder / "p.png", picture * 2)
        else:
            record.checkpoint("one", {**SAVED, "done": 2})
    assert (np.asarray(Image.open(record.folder / "p.png")) == picture).all()
    assert record.saved("one") == SAVED
    assert not list(record.folder.rglob("*.part"))


def test_folder_for(tmp_path):
    out = tmp_path / "a"
    assert folder_for(out, RECIPE) == out
    write(out / "recipe.toml", RECIPE)
    assert folder_for(out, RECIPE) == out
    assert folder_for(out, RECIPE.replace("runs/a", "elsewhere")) == out
    other = RECIPE.replace("seed = 0", "seed = 1")
    assert folder_for(out, other) == tmp_path / "a-2"
    write(tmp_path / "a-2" / "recipe.toml", other)
    assert folder_for(out, other) == tmp_path / "a-2"
    third = RECIPE + 'label = "x"\n'
    assert folder_for(out, third) == tmp_path / "a-3"


def test_only_the_runs_own_folder_is_left_out_of_the_comparison(tmp_path):
    # A part may have an option `out`, and a folder may hold something that is no recipe.
    write(tmp_path / "a" / "recipe.toml", RECIPE + 'out = "x"\n')
    assert folder_for(tmp_path / "a", RECIPE + 'out = "y"\n') == tmp_path / "a-2"
    write(tmp_path / "b" / "recipe.toml", "not TOML")
    assert folder_for(tmp_path / "b", RECIPE) == tmp_path / "b-2"


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
    record.results((), [side(name) for name in names])
    record.close("done")
    arms = json.loads((tmp_path / "results.json").read_text())["arms"]
    for number, arm in enumerate(arms):
        x1 = load_file(tmp_path / arm["folder"] / "states.safetensors")["x1"]
        assert x1.tolist() == [[number, number]]


def test_weights_lie_in_the_folder_unless_there_are_several_arms(tmp_path, record):
    alone = Record.open(tmp_path / "alone", RECIPE, {}, ["distill"])
    assert alone.saved("distill") is None
    alone.checkpoint("distill", SAVED)
    alone.close("done")
    assert (tmp_path / "alone" / "checkpoint.pt").is_file()
    record.checkpoint("one", {**SAVED, "state": {"x": torch.ones(2)}})
    assert record.saved("two") is None
    assert record.saved("one")["state"]["x"].tolist() == [1, 1]


def test_about_says_how_it_goes(tmp_path):
    record = Record.open(tmp_path, RECIPE, {"a.B": "align-core 1"}, ["one"])
    said = about(tmp_path)
    assert (said["status"], said["origins"]) == ("running", {"a.B": "align-core 1"})
    assert said["libraries"]["torch"] == torch.__version__
    assert (tmp_path / "recipe.toml").read_text() == RECIPE
    record.about(note="é")
    record.close("failed: PartError: no é")
    said = about(tmp_path)
    assert (said["status"], said["note"]) == ("failed: PartError: no é", "é")
    log = (tmp_path / "log.txt").read_text()
    assert "run begins in" in log
    assert log.endswith("run ends: failed: PartError: no é\n")
    Record.open(tmp_path, RECIPE, {}, ["one"]).close("done")
    assert about(tmp_path)["status"] == "done"
    assert (tmp_path / "log.txt").read_text().startswith(log)


def test_nothing_is_logged_after_the_end(tmp_path):
    first = Record.open(tmp_path / "a", RECIPE, {}, ["one"])
    first.close("done")
    kept = (tmp_path / "a" / "log.txt").read_text()
    Record.open(tmp_path / "b", RECIPE, {}, ["one"]).close("done")
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
    assert sheet.shape == (2, 16, 3)
    assert sheet[:, :6].min() == 255
    assert sheet[:, 6:].max() == 0


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


def test_bytes_of_pictures():
    data = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 0.499 / 255])[None, None, None]
    made = to_bytes(data)
    assert (made.shape, made.dtype) == ((1, 1, 6, 3), np.uint8)
    assert made[0, 0, :, 2].tolist() == [0, 0, 128, 255, 255, 0]
    colours = torch.tensor([0.2, 0.4, 0.6])[None, :, None, None].expand(2, 3, 1, 1)
    assert to_bytes(colours)[1, 0, 0].tolist() == [51, 102, 153]


def test_mosaic():
    pictures = np.stack([np.full((2, 3, 3), n, np.uint8) for n in range(1, 6)])
    sheet = mosaic(pictures, columns=2)
    assert sheet.shape == (6, 6, 3)
    assert sheet[::2, ::3, 0].tolist() == [[1, 2], [3, 4], [5, 0]]


def side(name, x1=None, **more):
    cost = Cost({"network": 4}, {"reward a": 2}, 10, 1.5, 100)
    return ArmResult(name, x1, x1, more.get("scores", {}), more.get("metrics", {}), cost)


def test_results(record):
    rewards = (
        RewardTerm(part=Compressibility(), name="a", weight=2.0),
        RewardTerm(part=Compressibility(), name="b", held_out=True),
    )
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.5, 0.25])}
    one = side("one", torch.zeros(2, 3), scores=scores, metrics={"edges": 0.5})
    record.results(rewards, [one, side("two")])
    said = json.loads((record.folder / "results.json").read_text())
    assert said["rewards"] == {
        "a": {"weight": 2.0, "held_out": False},
        "b": {"weight": 1.0, "held_out": True},
    }
    first, second = said["arms"]
    assert first["scores"] == {"a": [1.0, 2.0], "b": [0.5, 0.25]}
    assert (first["name"], first["samples"], first["folder"]) == ("one", 2, "samples/one")
    assert (first["metrics"], second["samples"]) == ({"edges": 0.5}, 0)
    assert first["cost"] == {
        "calls": {"network": 4},
        "backward": {"reward a": 2},
        "flops": 10,
        "seconds": 1.5,
        "memory": 100,
    }
    assert (said["unsteered"], said["notes"]) == ([], [])
    assert (first["divergence"], second["divergence"]) == (None, None)
    far = attrs.evolve(one, divergence=Divergence(reward=1.5, at_least=0.5))
    record.results(rewards, [far], [{"arms": ["one"], "r": [0.5]}], ["a note"])
    said = json.loads((record.folder / "results.json").read_text())
    assert (said["unsteered"], said["notes"]) == ([{"arms": ["one"], "r": [0.5]}], ["a note"])
    assert said["arms"][0]["divergence"] == {
        "reward": 1.5,
        "reward_error": None,
        "at_least": 0.5,
        "at_least_error": None,
        "ess": None,
        "at_most": None,
    }
