"""Checkpoints: complete folders only, and nothing in a run folder is ever unpickled."""

import json
import pickle

import pytest
import torch
from torch import nn

from align.catalog.registry import load_catalog
from align.core.errors import AlignError, PartError
from align.report import writer as report
from align.runner.session import run
from align.training import checkpoint

pytestmark = pytest.mark.usefixtures("unpainted")
RECIPE = """
[run]
samples = 2
unsteered = 0
checkpoint_every = 2
[model]
kind = "mixture"
weights = [0.4, 0.6]
means = [[-2.0, 0.0], [2.0, 1.0]]
stds = [0.5, 0.7]
[[reward]]
kind = "likelihood"
matrix = [[1.0, 0.5]]
observed = [1.0]
std = 0.7
[mode]
kind = "finetune"
objective = { kind = "stein", draws_from = "data" }
net = { kind = "mlp", width = 8, depth = 1 }
steps = 4
flow_steps = 4
optimisation = { batch = 8, warmup = 1 }
evaluation = { samples = 4, flow_steps = 4 }
"""
MORE = (
    "checkpoint-4/.metadata",
    "checkpoint-4/__0_0.distcp",
    "checkpoint-4/shard-00002-model-00001-of-00001.safetensors",
    "checkpoint-9/.metadata",
    "checkpoint-9/progress.json",
    "checkpoint.pt",
    "checkpoint-5.part/progress.json",
)
"""Files that a run folder does not have, by names that torch or an older align would read."""


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def state(value=1.0):
    return {"module": {"weight": torch.full((2, 3), value), "count": torch.tensor(4)}}


def saved(done, value=1.0):
    return {"done": done, "flops": 12, "meter": {"seconds": 0.5}, "state": state(value)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A function that runs the recipe into a folder or goes on with it, and a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    catalog = load_catalog([])

    def go(place):
        (place / "r.toml").write_text(RECIPE)
        out = place / "out"
        run(place / "r.toml", sets=[f'run.out="{out}"'], progress=False, catalog=catalog)
        return out

    return go, go(folder)


def names_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def planted_run(source, place, names):
    """Copy a run folder to `place`, with a bomb in some of its files; where it would explode."""
    exploded = place / "exploded"
    bomb = pickle.dumps(Bomb(exploded))
    for name in {*names_of(source), *names}:
        path = place / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bomb if name in names else (source / name).read_bytes())
    return exploded


def check_nothing_runs(finished, place, names):
    """Report on a run folder with bombs, then go on with the run: nothing runs."""
    go, source = finished
    exploded = planted_run(source, place, names)
    for call in (lambda: report.write(place / "out"), lambda: go(place)):
        try:
            call()
        except AlignError as error:
            assert "\n" not in str(error)
            assert str(place / "out") in str(error)
    assert not exploded.exists(), f"one of {names} was unpickled"


def test_bomb_explodes_when_it_is_unpickled(tmp_path):
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(Bomb(tmp_path / "nowhere" / "exploded")))


@pytest.mark.parametrize("pattern", ["**/*", "checkpoint-4/*"])
def test_pickles_in_files_of_a_run_folder_are_never_executed(finished, tmp_path, pattern):
    names = [str(p.relative_to(finished[1])) for p in finished[1].glob(pattern) if p.is_file()]
    assert any(name.endswith(".safetensors") for name in names)
    check_nothing_runs(finished, tmp_path, [*names, *MORE])


@pytest.mark.slow
def test_pickle_in_each_file_of_a_run_folder_is_never_executed(finished, tmp_path):
    for number, name in enumerate([*names_of(finished[1]), *MORE]):
        (place := tmp_path / str(number)).mkdir()
        check_nothing_runs(finished, place, [name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("progress.json", "cannot be read"),
        ("shard-00001-model-00001-of-00001.safetensors", "cannot be read"),
        ("shard-00002-model-00001-of-00001.safetensors", "cannot be read"),
    ],
)
def test_damaged_file_of_a_checkpoint_is_told_in_one_line(tmp_path, name, message):
    checkpoint.write(tmp_path, saved(3))
    (tmp_path / "checkpoint-3" / name).write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(PartError) as caught:
        checkpoint.fill(state(), checkpoint.read(tmp_path)["state"])
    assert message in str(caught.value)
    assert str(tmp_path / "checkpoint-3") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_latest_complete_checkpoint_is_read_and_older_ones_are_removed(tmp_path):
    assert checkpoint.read(tmp_path) is None
    checkpoint.write(tmp_path, saved(9, 1.0))
    checkpoint.write(tmp_path, saved(10, 2.0))
    (tmp_path / "checkpoint-11.part").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*[0-9]")) == ["checkpoint-10"]
    found = checkpoint.read(tmp_path)
    assert (found["done"], found["flops"], found["meter"]) == (10, 12, {"seconds": 0.5})
    tensors = state(0.0)
    checkpoint.fill(tensors, found["state"])
    assert tensors["module"]["weight"].tolist() == [[2.0] * 3] * 2
    assert int(tensors["module"]["count"]) == 4


def test_checkpoint_that_is_a_link_is_not_followed(tmp_path):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    checkpoint.write(elsewhere, saved(3))
    home.mkdir()
    (home / "checkpoint-3").symlink_to(elsewhere / "checkpoint-3")
    assert checkpoint.read(home) is None
    checkpoint.write(home, saved(2))
    (shard,) = (home / "checkpoint-2").glob("*.safetensors")
    content = shard.rename(tmp_path / shard.name)
    shard.symlink_to(content)
    with pytest.raises(PartError, match="is a link"):
        checkpoint.fill(state(), checkpoint.read(home)["state"])


def test_checkpoint_of_another_shape_is_refused(tmp_path):
    checkpoint.write(tmp_path, saved(3))
    other = {"module": {"weight": torch.zeros(3, 3), "count": torch.tensor(0)}}
    with pytest.raises(PartError, match=r"of another network \(module.weight\)"):
        checkpoint.fill(other, checkpoint.read(tmp_path)["state"])


def test_weights_that_share_memory_are_written_whole(tmp_path):
    layer = nn.Linear(3, 3)
    tied = nn.Sequential(layer, layer)
    checkpoint.write(tmp_path, {**saved(1), "state": tied.state_dict()})
    again = {name: torch.zeros_like(tensor) for name, tensor in tied.state_dict().items()}
    checkpoint.fill(again, checkpoint.read(tmp_path)["state"])
    assert all(torch.equal(again[name], tensor) for name, tensor in tied.state_dict().items())


def test_progress_is_json(tmp_path):
    checkpoint.write(tmp_path, saved(3))
    progress = json.loads((tmp_path / "checkpoint-3" / "progress.json").read_text())
    assert {"done": 3, "flops": 12, "meter": {"seconds": 0.5}}.items() <= progress.items()
