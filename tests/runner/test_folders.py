"""Run folders that are damaged, taken, or cannot be written; and what is in them never runs."""

import errno
import json
import os
import pickle
import resource
import shlex
import shutil
import signal
from pathlib import Path

import pytest
import torch
from loguru import logger

from align.catalog.registry import load_catalog
from align.core.errors import (
    ContractError,
    DivergedError,
    PartError,
    RecipeError,
    TakenError,
    TerminatedError,
)
from align.io import files, lock
from align.modes.distill.mode import Distill
from align.modes.sampling.steer import Steer
from align.recipe.assemble import LONGEST_NAME
from align.report import plots, schema
from align.report import writer as report
from align.runner import folder as run_folder
from align.runner import observers, record
from align.runner.plan import NoPlanError, Planner
from align.runner.session import run

pytestmark = pytest.mark.usefixtures("unpainted")
MODEL = """
[model]
kind = "mixture"
weights = [0.5, 0.5]
means = [[-2.0, 0.0], [2.0, 0.0]]
stds = [0.5, 0.5]
"""
STEERED = (
    "[run]\nsamples = 4\nunsteered = 0\n"
    + MODEL
    + """
[estimator]
kind = "exact"

[[reward]]
kind = "likelihood"
matrix = [[1.0, 0.0]]
observed = [1.5]
std = 0.5

[mode]
kind = "steer"
steps = 2
"""
)
TRAINED = (
    "[run]\nsamples = 4\n"
    + MODEL
    + """
[mode]
kind = "distill"
net = { kind = "mlp", width = 8, depth = 1 }
steps = 2
optimisation = { batch = 8 }
"""
)
SHARD = "checkpoint-2/shard-00001-model-00001-of-00001.safetensors"


class Planted:
    """Runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture(scope="module")
def catalog():
    return load_catalog([])


@pytest.fixture
def go(catalog, tmp_path):
    """Run a recipe's text into a folder of the test, or into the one that is asked."""

    def gone(text, *sets, out=None):
        (tmp_path / "r.toml").write_text(text)
        out = json.dumps(str(out if out is not None else tmp_path / "out"))
        sets = [f"run.out={out}", *sets]
        return run(tmp_path / "r.toml", sets=sets, progress=False, catalog=catalog).folder

    return gone


@pytest.fixture(scope="module")
def whole(catalog, tmp_path_factory):
    """Folders of finished runs, by their recipe."""
    folders = {}
    for name, text in {"steered": STEERED, "trained": TRAINED}.items():
        place = tmp_path_factory.mktemp(name)
        (place / "r.toml").write_text(text)
        sets = [f'run.out="{place / "out"}"']
        folders[text] = run(place / "r.toml", sets=sets, progress=False, catalog=catalog).folder
    return folders


@pytest.fixture
def copied(whole, tmp_path):
    def copy(text):
        return Path(shutil.copytree(whole[text], tmp_path / "out"))

    return copy


def emptied(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_in_a_string(path):
    text = path.read_text()
    path.write_text(text[: text.rindex(' = "') + 4])


def turned(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def doubled(path):
    path.write_bytes(path.read_bytes() * 2)


def begun_late(path):
    path.write_bytes(path.read_bytes().partition(b"\n")[2])


def cut_early(path):
    path.write_bytes(path.read_bytes()[:20])


def ended_early(path):
    path.write_bytes(path.read_bytes()[:-9])


def garbled(path):
    path.write_bytes(b"\xff\x00" * 100)


def a_list(path):
    path.write_text("[1]")


def a_folder(path):
    path.unlink()
    path.mkdir()


def a_link(path):
    elsewhere = path.rename(path.parent.parent.parent / "elsewhere")
    path.symlink_to(elsewhere)


def removed(path):
    path.unlink()


def check_line(caught, name):
    said = str(caught.value)
    assert "\n" not in said
    assert name in said
    assert "; " in said  # a cure follows


@pytest.mark.parametrize(
    ("name", "damages"),
    [
        # Half a recipe may be one as well, by where the half ends.
        ("recipe.toml", (emptied, cut_in_a_string, garbled, a_folder, a_link)),
        ("about.json", (emptied, cut, garbled, a_list, a_folder, a_link)),
        ("metrics.jsonl", (ended_early, turned, doubled, begun_late, garbled, a_folder, a_link)),
        ("log.txt", (a_folder, a_link)),
        ("results.json", (a_folder, a_link)),
        ("model.safetensors", (a_folder, a_link)),
        (
            "checkpoint-2/progress.json",
            (emptied, cut, turned, garbled, a_list, a_folder, a_link, removed),
        ),
        (SHARD, (emptied, cut, turned, garbled, a_list, a_folder, a_link, removed)),
    ],
)
def test_damage_is_named_before_a_run_goes_on(go, copied, tmp_path, name, damages):
    for damage in damages:
        folder = copied(TRAINED)
        damage(folder / name)
        with pytest.raises(PartError) as caught:
            go(TRAINED)
        check_line(caught, name.rpartition("/")[2] if damage is not a_link else name)
        shutil.rmtree(folder)
        (tmp_path / "elsewhere").unlink(missing_ok=True)


@pytest.mark.parametrize("damage", [emptied, removed, cut_early])
def test_lost_metrics_are_told_and_training_goes_on(go, copied, damage):
    folder = copied(TRAINED)
    damage(folder / "metrics.jsonl")
    assert go(TRAINED) == folder
    text = (
        "metrics.jsonl' has no steps of 'distill' before its checkpoint; its curves begin at step 2"
    )
    assert text in (folder / "log.txt").read_text()


def test_metrics_after_the_last_checkpoint_are_written_anew(go, copied):
    path = copied(TRAINED) / "metrics.jsonl"
    before = path.read_bytes()
    path.write_bytes(
        before + json.dumps({"arm": "distill", "step": 2, "loss": 1.0}).encode() + b"\n"
    )
    go(TRAINED)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content"), [("samples", "file"), ("weights", "file"), ("looks", "file")]
)
def test_file_in_place_of_a_folder_is_named(go, tmp_path, name, content):
    files.write(tmp_path / "out" / name, content)
    with pytest.raises(PartError, match=rf"'.*{name}' is no folder; move it away"):
        go(STEERED)
    assert (tmp_path / "out" / name).read_text() == content


def test_checkpoint_of_another_recipe_or_arm_is_not_taken(go, copied):
    folder = copied(TRAINED)
    other = TRAINED.replace("width = 8", "width = 16")
    (folder / "recipe.toml").unlink()
    with pytest.raises(PartError, match=r"checkpoint-2' is of another recipe; move it away"):
        go(other)
    arms = TRAINED + '[[compare]]\nname = "a"\n[[compare]]\nname = "b"\nmode.steps = 3\n'
    shutil.rmtree(folder)
    folder = go(arms)
    for arm in ("a", "b"):
        shutil.move(folder / "weights" / arm, folder / f"was-{arm}")
    shutil.move(folder / "was-a", folder / "weights" / "b")
    with pytest.raises(PartError, match=r"checkpoint-2' is of another arm; move it away"):
        go(arms)


def test_checkpoint_that_was_renamed_is_not_taken(go, copied):
    folder = copied(TRAINED)
    (folder / "checkpoint-2").rename(folder / "checkpoint-1")
    with pytest.raises(PartError, match="it is of step 2"):
        go(TRAINED)


@pytest.mark.parametrize("name", ["../away", "checkpoint-2.part", "checkpoint-02", "checkpoint-٢"])
def test_other_names_are_no_checkpoints(go, copied, name, tmp_path):
    folder = copied(TRAINED)
    (folder / "checkpoint-2").rename(folder / name)
    assert f"{2} steps, from step 0" in (go(TRAINED) / "log.txt").read_text()


@pytest.mark.parametrize("text", [STEERED, TRAINED], ids=["steered", "trained"])
def test_pickles_in_every_file_of_a_run_folder_never_run(go, copied, tmp_path, text):
    planted = tmp_path / "planted"
    folder = copied(text)
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    names += [Path(n) for n in ("run.lock", "checkpoint-2/.metadata", ".metadata", "checkpoint.pt")]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_bytes(pickle.dumps(Planted(planted)))
        for read, what in ((report.write, folder), (go, text)):
            try:
                read(what)
            except PartError as error:
                assert "\n" not in str(error)
        assert not planted.exists(), name
        shutil.rmtree(folder)
        folder = copied(text)
        assert before is None or (folder / name).read_bytes() == before


@pytest.mark.parametrize(
    ("name", "damages"),
    [
        ("recipe.toml", (emptied, cut_in_a_string, garbled, a_folder, removed)),
        ("about.json", (emptied, cut, garbled, a_list, a_folder, removed)),
        ("metrics.jsonl", (emptied, cut, turned, garbled, a_list, a_folder, removed)),
        (
            "samples/steer/states.safetensors",
            (emptied, cut, turned, garbled, a_list, a_folder, removed),
        ),
    ],
)
def test_report_names_damage_and_makes_everything_else(copied, name, damages):
    for damage in damages:
        folder = copied(STEERED)
        (folder / "table.md").unlink()
        damage(folder / name)
        (failure,) = report.write(folder)
        assert str(folder / name) in failure
        assert "\n" not in failure
        assert "; " in failure
        assert (folder / "table.md").is_file()
        shutil.rmtree(folder)


def test_samples_of_two_arms_that_were_swapped_are_not_shown(go):
    folder = go(STEERED + '[[compare]]\nname = "a"\n[[compare]]\nname = "b"\nmode.steps = 3\n')
    samples = folder / "samples"
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        (samples / old).rename(samples / new)
    (failure,) = report.write(folder)
    assert "samples/a/states.safetensors' is damaged; run the recipe.toml again" in failure


def test_results_whose_numbers_were_changed_are_refused(copied):
    path = copied(STEERED) / "results.json"
    tables = json.loads(path.read_text())
    tables["arms"][0]["scores"]["likelihood"][0] += 1
    path.write_text(json.dumps(tables))
    with pytest.raises(PartError, match=r"was changed; run the recipe\.toml again"):
        report.write(path.parent)


def test_results_lead_nowhere_else(copied):
    folder = copied(STEERED)
    with pytest.raises(ValueError, match="must match regex"):
        schema.ArmNumbers(name="a", folder="samples/../../etc", samples=0)
    (folder / "looks").symlink_to(folder.parent)
    with pytest.raises(PartError, match="looks' is a link"):
        report.write(folder)


def test_report_tells_a_run_that_lives_from_a_dead_one(copied, tmp_path):
    folder = copied(STEERED)
    (folder / "results.json").unlink()
    with pytest.raises(PartError, match=r"results\.json is missing; run '.*recipe\.toml' again"):
        report.write(folder)
    about = json.loads((folder / "about.json").read_text())
    files.write(folder / "about.json", json.dumps({**about, "status": "running"}))
    with pytest.raises(PartError, match=r"it was killed after 20.*; run '.*recipe\.toml' again"):
        report.write(folder)
    ours = lock.Lock.take(folder, "digest")
    with pytest.raises(PartError, match=f"it is still going on .process {os.getpid()} on"):
        report.write(folder)
    ours.release()
    with pytest.raises(
        PartError,
        match=r"nothing. holds no finished run: No such file or directory; name the folder",
    ):
        report.write(tmp_path / "nothing")


def test_heartbeat_goes_on_while_a_run_does(monkeypatch, tmp_path):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    ours = record.Record.open(tmp_path / "out", STEERED, {}, ["steer"])
    path = tmp_path / "out" / "about.json"
    try:
        ours._facts["heartbeat"] = "never"
        os.utime(tmp_path / "out" / "run.lock", (1, 1))
        for _ in range(2000):
            if json.loads(path.read_text())["heartbeat"] != "never":
                break
            ours._pulse._stopped.wait(0.005)
        assert json.loads(path.read_text())["status"] == "running"
    finally:
        ours.close("done")
        ours.release()
    assert json.loads(path.read_text())["status"] == "done"
    assert not (tmp_path / "out" / "run.lock").exists()


def test_plot_that_fails_costs_no_result(go, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such glyph\nat all")

    monkeypatch.setattr(plots, "save_figure", broken)
    folder = go(STEERED)
    assert {"results.json", "table.md"} <= {path.name for path in folder.iterdir()}
    about = json.loads((folder / "about.json").read_text())
    assert about["status"] == "done"
    assert "tradeoff.png could not be made (RuntimeError: no such glyph)" in about["not_made"][1]
    log = (folder / "log.txt").read_text()
    assert "tradeoff.png could not be made (RuntimeError: no such glyph)" in log
    monkeypatch.undo()
    assert report.write(folder) == ()
    assert (folder / "tradeoff.png").is_file()


NAMES = (
    "[/]",
    "[red]x[/red] :smile:",
    "$x_{$",
    "$_$",
    "_hidden",
    "a|b",
    "two\nlines",
    "<script>alert(1)</script>",
    "\\",
    "{braces} %s",
    "x" * LONGEST_NAME,
    "y" * (LONGEST_NAME - 1) + "1",
    "y" * (LONGEST_NAME - 1) + "2",
    "一次抽样",
    "两次抽样",
    "👩‍🚀",
    "שלום",
    "مرحبا",
    "\u202eback",
    "\x1b[2J\x07",
    "../../up",
    "~",
    "con",
)


def test_any_names_of_arms_end_in_a_report(go, capfd):
    tables = "".join(
        f"[[compare]]\nname = {json.dumps(name, ensure_ascii=False)}\n" for name in NAMES
    )
    folder = go(STEERED + tables, "run.samples=1", "mode.steps=1")
    results = report.read(folder)
    assert [arm.name for arm in results.arms] == list(NAMES)
    folders = [arm.folder for arm in results.arms]
    assert len(set(folders)) == len(NAMES)
    assert max(len(name.partition("/")[2].encode()) for name in folders) <= 80
    table = (folder / "table.md").read_text().splitlines()
    assert all(line.replace("\\|", "").count("|") == table[0].count("|") for line in table[:25])
    assert "<script>" not in "".join(table)
    assert report.write(folder) == ()
    assert "Warning" not in capfd.readouterr().err


def test_name_that_no_table_can_hold_is_refused(go, tmp_path):
    with pytest.raises(RecipeError, match="at most 200 letters, got 201"):
        go(STEERED + f'[[compare]]\nname = "{"x" * 201}"\n')
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("a\0b", "cannot hold NUL"),
        ("x" * 300, "is too long"),
        ("/".join(["y" * 100] * 45), "is too long"),
        ("file", "is no folder; choose another name"),
        ("file/below", "file' is no folder"),
        ("dangling", "is a link that leads nowhere"),
        ("loop/x", "cannot be used"),
        ("/", "root of a disk"),
    ],
)
def test_folder_that_cannot_be_is_refused_before_the_run(go, tmp_path, monkeypatch, out, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RecipeError) as caught:
        go(STEERED, out=out)
    assert said in str(caught.value)
    assert "run.out: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"r.toml", "file", "dangling", "loop"}


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (".", "'.' is the working directory, which holds other things; name a folder for the"),
        ("x/..", "'x/..' is the working directory, which holds"),
        ("..", "'..' is a folder around the working directory; name a folder for the run alone"),
        ("~", "is your home folder, which holds other things; name a folder for the run alone"),
    ],
)
def test_folder_where_people_are_is_refused(go, tmp_path, monkeypatch, out, said):
    place = tmp_path / "place"
    place.mkdir()
    (place / "link").symlink_to("mine")
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place if out == "~" else tmp_path / "home"))
    with pytest.raises(RecipeError) as caught:
        go(STEERED, out=out)
    assert said in str(caught.value).partition("run.out: ")[2]
    assert [path.name for path in place.iterdir()] == ["link"]


def test_run_may_be_taken_up_inside_of_its_folder(go, copied, monkeypatch):
    folder = copied(TRAINED)
    monkeypatch.chdir(folder)
    assert go(TRAINED, out=folder) == folder
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder / "empty")
    assert go(STEERED, out=".") == folder / "empty"


def test_folder_that_may_not_be_written_is_refused_before_the_run(go, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.os, "access", lambda *_: False)
    with pytest.raises(RecipeError, match="you may not write into"):
        go(STEERED)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("reward[0].weight=1e200", "reward[0].weight = 1e+200"),
        ("reward[0].std=1e-200", "reward[0].std = 1e-200"),
        ("mode.scale=1e300", "mode.scale = 1e+300"),
        ('estimator={kind="gaussian", data_std=1e200}', "estimator.data_std = 1e+200"),
    ],
)
def test_number_that_makes_others_overflow_is_named(go, setting, named):
    with pytest.raises((PartError, ContractError, DivergedError)) as caught:
        go(STEERED, setting)
    assert str(caught.value).endswith(f"; {named} is far from usual numbers, which may be why")


def test_large_scores_have_an_error_and_measured_overflows_are_told(go):
    folder = go(STEERED, "reward[0].weight=1e160", 'mode={kind="best_of_n", flow_steps=2}')
    (row,) = (folder / "table.md").read_text().splitlines()[2:3]
    assert "inf" not in row
    assert "e+160 ±" in row or "e+161 ±" in row
    study = STEERED.replace('"steer"\nsteps = 2', '"fidelity"\nmethod = "flow"\nouter_steps = [1]')
    study += 'metric = "sliced_wasserstein"\n[sampler]\nkind = "mfm"\n'
    folder = go(study, "model.stds=[1e154,1.0]")
    said = "sliced_wasserstein of 'fidelity': not finite, as no float holds what was measured; "
    assert said + "model.stds" in (folder / "study.md").read_text()


REWARDS = """
def score(data, prompts):
    return data[:, 0] + 100

def centred(data, prompts):
    return data[:, 0] - data[:, 0].mean()

def ranked(data, prompts):
    return data[:, 0].argsort().argsort().float()

def squeezed(data, prompts):
    return data[:, :1].squeeze()
"""


def test_reward_that_scores_a_row_alone_otherwise_is_told_under_the_table(go, tmp_path):
    (tmp_path / "rewards.py").write_text(REWARDS)
    names = ("score", "centred", "ranked", "squeezed")
    terms = [
        f'[[reward]]\nkind = "python"\nfile = "{tmp_path}/rewards.py"\nfunction = "{name}"\n'
        f'name = "{name}"\nheld_out = true\ndifferentiable = false\n'
        for name in names
    ]
    folder = go(STEERED + "".join(terms))
    (arm,) = report.read(folder).arms
    alone = ": row i of a score must depend on row i of the data alone, and be the same each time."
    assert [note.replace(alone, "") for note in arm.notes[:2]] == [
        f"reward '{name}' scores a sample alone otherwise than among others"
        for name in ("centred", "ranked")
    ]
    assert arm.notes[2].startswith("reward 'squeezed' cannot score a sample alone: reward 'python'")
    assert len(arm.notes) == 3
    assert set(arm.cost.reward_calls) == {"likelihood"}


ASKED = ('estimator={kind="stein", draws=2}', 'sampler={kind="gaussian"}')
NETWORKS = """
import torch
from torch import nn

class Unfrozen(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(True)

def own():
    return lambda x, t: -x

def centred():
    return lambda x, t: x - x.mean(0)

def random():
    return lambda x, t: torch.randn_like(x)

def normalised():
    return Both(Unfrozen(2))

class Both(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x, t):
        return self.norm(x)

def mixed(x1):
    return x1 - x1.mean(0)

def drawn(x1):
    return x1 + torch.randn_like(x1)
"""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("own", None),
        ("centred", "velocity of a sample alone is another than among others: row i of it must"),
        ("random", "velocity of a sample alone is another than among others: row i of it must"),
        (
            "normalised",
            "velocity cannot be asked about a sample alone: model 'torch': the network of",
        ),
        ('own", decode = "mixed', "decode of a sample alone is another than among others: row i"),
        ('own", decode = "drawn', "decode of a sample alone is another than among others: row i"),
    ],
)
def test_model_that_asks_a_row_alone_otherwise_is_told_under_the_table(go, tmp_path, options, told):
    (tmp_path / "nets.py").write_text(NETWORKS)
    model = f'kind = "torch", file = "{tmp_path}/nets.py", shape = [2], function = "{options}"'
    (arm,) = report.read(go(STEERED, *ASKED, f"model={{ {model} }}")).arms
    notes = [note for note in arm.notes if "alone" in note]
    assert len(notes) == (told is not None)
    assert all(note.startswith(f"model 'torch': {told}") for note in notes), notes


def test_tilde_is_the_home_folder(go, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert go(STEERED, out="~/runs") == tmp_path / "home" / "runs"


@pytest.mark.parametrize(
    "mistake",
    [
        'model={kind="network", weights="none.safetensors"}',
        'run.device="cuda"',
        'reward={kind="isolated", venv="none", reward={kind="statistic"}}',
    ],
)
def test_mistake_in_a_part_leaves_no_folder(go, tmp_path, mistake):
    if torch.cuda.is_available() and "cuda" in mistake:
        pytest.skip("there is a CUDA device")
    with pytest.raises((PartError, RecipeError)):
        go(STEERED, mistake, out=tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_mistake_leaves_what_was_there(go, tmp_path):
    files.write(tmp_path / "out" / "notes.txt", "mine")
    with pytest.raises(PartError):
        go(STEERED, 'run.device="cuda"' if not torch.cuda.is_available() else "model.weights=[]")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_second_run_of_a_recipe_is_told_who_has_the_folder(go, tmp_path, copied):
    folder = copied(STEERED)
    text = (folder / "recipe.toml").read_text()
    ours = run_folder.claim(folder, text)
    with pytest.raises(TakenError, match=f"in use by process {os.getpid()}"):
        go(STEERED)
    # Another recipe has a folder of its own.
    assert go(STEERED, "run.seed=1") == tmp_path / "out-2"
    ours.lock.release()
    assert go(STEERED) == folder


def full_disk(monkeypatch, number=errno.ENOSPC):
    def fsync(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fsync)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"the disk is full: it takes .* kB, and .* are free; free some"),
        (errno.EDQUOT, "quota of the disk is used up"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_disk_that_fills_up_while_training_leaves_what_was_there(
    go, monkeypatch, tmp_path, number, said
):
    write = record.Record.checkpoint

    def late(self, arm, saved):
        if saved["done"] == 2:
            full_disk(monkeypatch, number)
        write(self, arm, saved)

    monkeypatch.setattr(record.Record, "checkpoint", late)
    with pytest.raises(PartError, match=said) as caught:
        go(TRAINED, "run.checkpoint_every=1")
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    folder = tmp_path / "out"
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-1"]
    assert not (folder / "run.lock").exists()
    assert "2 steps, from step 1" in (go(TRAINED) / "log.txt").read_text()


def test_file_that_is_too_large_is_named(go, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
    try:
        with pytest.raises(PartError, match="no file may be so large; raise the limit"):
            go(TRAINED, "mode.net.width=64")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM])
def test_mount_that_refuses_to_say_what_is_on_the_disk_is_no_error(go, monkeypatch, number):
    full_disk(monkeypatch, number)
    folder = go(TRAINED)
    assert (folder / "checkpoint-2" / "progress.json").is_file()


@pytest.mark.parametrize(
    ("kind", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, None)]
)
def test_signal_ends_a_run_after_its_step(go, monkeypatch, tmp_path, kind, code):
    step = Steer.step

    def struck(self, problem, state, index, streams):
        os.kill(os.getpid(), kind)
        return step(self, problem, state, index, streams)

    def unplanned(*_):  # a plan goes through steps too
        raise NoPlanError("the signal is for the run's own step")

    monkeypatch.setattr(Planner, "plan", unplanned)
    monkeypatch.setattr(Steer, "step", struck)
    before = signal.getsignal(kind)
    with pytest.raises(KeyboardInterrupt) as caught:
        go(STEERED)
    assert signal.getsignal(kind) == before
    assert getattr(caught.value, "exit_code", None) == code
    folder = tmp_path / "out"
    assert json.loads((folder / "about.json").read_text())["status"] == "interrupted"
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    assert not (folder / "run.lock").exists()
    assert caught.value.__notes__ == [
        f"'{folder}' keeps what was written so far, which holds no checkpoint; `align run"
        f" {folder}/recipe.toml` begins anew"
    ]
    assert "Traceback" not in (folder / "log.txt").read_text()


def test_stopped_training_says_what_is_kept_and_what_goes_on_from_there(go, monkeypatch, catalog):
    step = Distill.step

    def struck(self, problem, state, index, streams):
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, problem, state, index, streams)

    monkeypatch.setattr(Distill, "step", struck)
    with pytest.raises(KeyboardInterrupt) as caught:
        go(TRAINED)
    monkeypatch.undo()
    (note,) = caught.value.__notes__
    kept, _, command = note.partition("; ")
    assert kept.endswith("/out' keeps the checkpoint of 'distill' after 1 step")
    assert command.endswith(" goes on from there")
    *_, recipe = shlex.split(command.split("`")[1])
    folder = run(recipe, progress=False, catalog=catalog).folder
    assert Path(recipe).parent == folder
    assert "2 steps, from step 1" in (folder / "log.txt").read_text()


@pytest.mark.parametrize("place", ["fanout.tasks_of", "plan.rehearse"])
def test_signal_before_the_first_step_ends_a_run_in_order(go, monkeypatch, tmp_path, place):
    monkeypatch.setattr(
        f"align.runner.{place}", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)
    )
    monkeypatch.setattr(observers, "stop_after_step", observers.ends_in_order)
    with pytest.raises(TerminatedError):
        go(STEERED)
    assert json.loads((tmp_path / "out" / "about.json").read_text())["status"] == "interrupted"


def test_signal_that_is_to_be_ignored_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with observers.ends_in_order():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


JUDGED = """
[[reward]]
kind = "python"
file = "judge.py"
held_out = true
"""


@pytest.mark.parametrize("text", [STEERED, TRAINED], ids=["steered", "trained"])
def test_run_whose_file_has_changed_begins_in_another_folder(go, tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    judge = tmp_path / "judge.py"
    judge.write_text("def score(data, prompts): return data.sum(1)\n")
    assert go(text + JUDGED).name == "out"
    before = (tmp_path / "out" / "recipe.toml").read_text()
    judge.write_text("def score(data, prompts): return data.sum(1) + 1\n")
    told = list[str]()
    sink = logger.add(told.append, format="{message}")
    assert go(text + JUDGED).name == "out-2"
    logger.remove(sink)
    assert f"(it differs in reward, '{judge}'); this one begins anew" in "".join(told)
    assert (tmp_path / "out" / "recipe.toml").read_text() == before
    with pytest.raises(RecipeError, match=r'files\."/.*judge\.py": it has changed since'):
        run(tmp_path / "out" / "recipe.toml", progress=False)


def test_run_whose_files_have_moved_goes_on_in_its_folder(go, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    judge = tmp_path / "judge.py"
    judge.write_text("def score(data, prompts): return data.sum(1)\n")
    assert go(TRAINED + JUDGED).name == "out"
    steps = (tmp_path / "out" / "metrics.jsonl").read_bytes()
    (tmp_path / "elsewhere").mkdir()
    judge.rename(tmp_path / "elsewhere" / "judge.py")
    moved = JUDGED.replace("judge.py", "elsewhere/judge.py")
    assert go(TRAINED + moved).name == "out"
    assert (tmp_path / "out" / "metrics.jsonl").read_bytes() == steps
