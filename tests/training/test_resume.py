"""A run that is killed at any moment goes on from its last checkpoint to the same bits."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from align.catalog.registry import load_catalog
from align.models.network import Network
from align.runner.session import run
from align.training import checkpoint

pytestmark = pytest.mark.usefixtures("unpainted")
STEPS = 24
RECIPE = f"""
[run]
checkpoint_every = 5

[model]
kind = "mixture"
weights = [0.4, 0.6]
means = [[-2.0, 0.0], [2.0, 1.0]]
stds = [0.5, 0.7]

[mode]
kind = "distill"
net = {{ kind = "mlp", width = 8, depth = 1 }}
steps = {STEPS}

[mode.optimisation]
batch = 8
grad_accumulation = 2
warmup = 5
optimiser = "radam"
ema_decay = 0.99
ema_decays = [0.5]
"""
FINETUNE = (
    RECIPE.replace("distill", "finetune")
    .replace(f"steps = {STEPS}", f"steps = {STEPS}\nevaluation = {{ every = 6, samples = 4 }}")
    .replace(
        "[mode]",
        """[sampler]
kind = "mfm"

[[reward]]
kind = "likelihood"
matrix = [[1.2, -0.8]]
observed = [-1.0]
std = 0.7

[mode]""",
    )
)
# Kills its own process at one moment; {} is the moment.
KILLED = """
import os, signal, sys
import align
from align.io import files
from align.runner import record
from pathlib import Path

write, replace, step = files.write, Path.replace, record.Record.step
end = lambda: os.kill(os.getpid(), signal.SIGKILL)

def half(path, content):
    if path.name == "progress.json" and path.parent.name == "checkpoint-10.part":
        path.write_text("{{")
        end()
    write(path, content)

def unnamed(beside, path):
    if path.name == "checkpoint-10":
        end()
    return replace(beside, path)

def between(self, arm, index, info):
    step(self, arm, index, info)
    if index == 12:
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write('{{"arm": "dis')
        end()

moment = {!r}
if moment == "writing": files.write = half
if moment == "renaming": Path.replace = unnamed
if moment == "between": record.Record.step = between
align.run(sys.argv[1], progress=False)
"""


@pytest.fixture(scope="module")
def go(tmp_path_factory):
    catalog = load_catalog([])

    def gone(folder=None, recipe=RECIPE):
        folder = folder or tmp_path_factory.mktemp("run")
        (folder / "r.toml").write_text(recipe)
        out = folder / "out"
        run(folder / "r.toml", sets=[f'run.out="{out}"'], progress=False, catalog=catalog)
        return out

    return gone


@pytest.fixture(scope="module")
def whole(go):
    return go()


@pytest.fixture(scope="module")
def tuned(go):
    return go(recipe=FINETUNE)


def cost(folder):
    (arm,) = json.loads((folder / "results.json").read_text())["arms"]
    return {name: arm["cost"][name] for name in ("calls", "backward", "flops")}


@pytest.mark.parametrize(
    ("mode", "moment", "done"),
    [
        ("distill", "writing", 5),
        ("distill", "renaming", 5),
        ("distill", "between", 10),
        ("finetune", "between", 10),
    ],
)
def test_killed(request, go, tmp_path, forked, mode, moment, done):
    text = {"distill": RECIPE, "finetune": FINETUNE}[mode]
    whole = request.getfixturevalue({"distill": "whole", "finetune": "tuned"}[mode])
    recipe, out = tmp_path / "r.toml", tmp_path / "out"
    recipe.write_text(text.replace("[run]", f'[run]\nout = "{out}"'))
    (tmp_path / "killed.py").write_text(KILLED.format(moment))
    assert forked(tmp_path / "killed.py", recipe).ended() == -signal.SIGKILL
    assert (out / "checkpoint-10.part").exists() == (moment != "between")
    assert checkpoint.read(out)["done"] == done
    assert go(tmp_path, text) == out
    assert f"{STEPS} steps, from step {done}" in (out / "log.txt").read_text()
    assert (out / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    for name in ("model.safetensors", "model_0.5.safetensors"):
        one, other = load_file(out / name), load_file(whole / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    if mode == "distill":  # the other evaluates its base model again
        assert cost(out) == cost(whole)
    assert cost(out)["calls"]["network"] > 0
    assert [path.name for path in out.glob("checkpoint*")] == [f"checkpoint-{STEPS}"]


def test_each_running_average_has_a_file_that_is_a_model(whole):
    (shard,) = (whole / f"checkpoint-{STEPS}").glob("*.safetensors")
    saved = load_file(shard)
    for name, decay in (("model", "0.99"), ("model_0.5", "0.5")):
        model = Network(weights=str(whole / f"{name}.safetensors")).build(torch.device("cpu"))
        prefix = f"averages.{decay}."
        names = {key.removeprefix(prefix) for key in saved if key.startswith(prefix)}
        assert {f"net.{key}" for key in model.posterior.state_dict()} == names
        for key, tensor in model.posterior.state_dict().items():
            assert torch.equal(tensor, saved[f"{prefix}net.{key}"])
    weight = "net.leave.weight"
    assert not torch.equal(saved[f"averages.0.5.{weight}"], saved[f"averages.0.99.{weight}"])


def test_the_same_run_may_be_kept_more_often(whole, go):
    again = go(whole.parent, RECIPE.replace("checkpoint_every = 5", "checkpoint_every = 7"))
    assert again == whole
    assert not (whole.parent / "out-2").exists()
