"""Models of other distributions whose own module is fine-tuned."""

import shutil
import sys

import attrs
import pytest
import torch

from align.core.errors import PartError
from align.core.problem import Problem
from align.core.reward import Term, WeightedReward
from align.core.streams import Streams
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.models.network import Network
from align.models.network_model import NetworkModel
from align.models.torch import Torch
from align.modes.finetune.evaluation import Evaluation
from align.modes.finetune.mode import FineTune
from align.modes.finetune.stein import SteinObjective
from align.networks.mlp import MLPConfig
from align.rewards.linear import Likelihood
from align.training import weights
from align.training.loop import Optimisation
from align.training.lora import Lora

CPU = torch.device("cpu")
MODE = FineTune(
    objective=SteinObjective(draws_from="data"),
    optimisation=Optimisation(batch=256, learning_rate=1e-2, warmup=10, ema_decay=0.95),
    evaluation=Evaluation(every=100, samples=64, flow_steps=20),
    pool=2000,
    flow_steps=20,
    steps=120,
)

HALF = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.register_buffer("scale", torch.ones(2))

    def forward(self, x, t):
        return self.layer(x * self.scale)

def model():
    return Net().to(torch.{})
"""


def trained(mode, part, count=1500):
    """The problem, the state at the end, and the model before it."""
    model, streams = part.build(CPU), Streams(0, tuple(range(count)))
    reward = Likelihood(matrix=((1.0, 0.0),), observed=(1.0,), std=0.6)
    terms = WeightedReward((Term(name="near", reward=reward.build(CPU)),))
    guarded = GuardedModel(model, part.kind, Meter(), 1 << 20)
    prompt = "" if isinstance(part, Torch) else "near"
    cond = model.encode([prompt] * count)
    problem = Problem(guarded, terms, cond=cond, prompts=(prompt,), part=part)
    state = mode.init(problem, streams)
    for index in range(mode.steps):
        state, _ = mode.step(problem, state, index, streams)
    return problem, state, model


def opened(tmp_path, export):
    """The model of kind "network" in the file of an export."""
    path = tmp_path / "model.safetensors"
    weights.write(path, export.modules, export.about)
    return Network(weights=str(path))


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
def test_own_module_of_another_model_follows_the_tilted_law(path, words, tmp_path):
    part = words.CorrectedSpec(path=path)
    problem, state, model = trained(MODE, part)
    x1 = MODE.finish(problem, state)
    # The word "near" is at (0, −1): N(0, .3²) in the first number, times N(1; x, .6²).
    assert x1[:, 0].mean() == pytest.approx(1 / 5, abs=0.04)
    assert x1[:, 0].std() == pytest.approx(0.3 / 1.25**0.5, abs=0.03)
    assert x1[:, 1].mean() == pytest.approx(-1, abs=0.04)
    assert all((weight == 0).all() for weight in model.module.layers[-1].parameters())
    export = MODE.export(problem, state)
    assert export.about["model"] == {
        "kind": "corrected",
        "prompt": "",
        "std": 0.3,
        "path": path,
        "picture": False,
        "width": 32,
        "notes": "",
        "plugin": "align-words 1.2",
    }
    assert export.files["count.txt"] == b"1250"
    spec = opened(tmp_path, export)
    assert spec.domain == "vector"
    assert spec.state_shape == (2,)
    again = spec.build(CPU)
    x, t, cond = torch.ones(2, 2), torch.tensor([0.3, 0.6]), again.encode(["near", "left"])
    tuned = state.model.with_module(state.training.ema)
    assert torch.equal(again.velocity(x, t, cond), tuned.velocity(x, t, cond))
    assert again.module.count == 7
    assert not any(weight.requires_grad for weight in again.module.parameters())
    assert again.path == model.path


def test_adapters_of_another_model_are_merged_and_written_beside(words, tmp_path):
    mode = attrs.evolve(MODE, lora=Lora(rank=2), steps=2, pool=64)
    problem, state, model = trained(mode, words.CorrectedSpec(), 8)
    export = mode.export(problem, state)
    assert {*export.files} == {"adapter_model.safetensors", "adapter_config.json", "count.txt"}
    assert int(export.files["count.txt"]) > sum(w.numel() for w in model.module.parameters())
    again = opened(tmp_path, export).build(CPU)
    x, t, cond = torch.ones(2, 2), torch.tensor([0.3, 0.6]), again.encode(["near", "left"])
    tuned = state.model.with_module(state.training.ema)
    torch.testing.assert_close(again.velocity(x, t, cond), tuned.velocity(x, t, cond))


def test_a_model_without_a_module_needs_a_network(words):
    mode = attrs.evolve(MODE, steps=1, pool=64)
    with pytest.raises(PartError, match=r"^mode\.net: the model has no module .*; name a network"):
        trained(mode, words.WordsSpec(), 8)


def test_a_file_is_opened_by_the_part_that_it_names_alone(words, tmp_path, monkeypatch):
    notes = tmp_path / "notes.txt"
    notes.write_text("")
    monkeypatch.chdir(tmp_path)
    mode = attrs.evolve(MODE, steps=1, pool=64)
    problem, state, _ = trained(mode, words.CorrectedSpec(notes="notes.txt"), 8)
    export = mode.export(problem, state)
    spec = opened(tmp_path, export)
    monkeypatch.chdir(tmp_path.parent)  # the path of its notes does not depend on the folder
    assert spec.build(CPU).spec.notes == str(notes)
    with pytest.raises(PartError, match="which has options of its own; leave guidance out"):
        attrs.evolve(spec, guidance=2.0).build(CPU)
    notes.unlink()
    with pytest.raises(PartError) as missing:
        spec.build(CPU)
    assert str(missing.value) == (
        f"weights: '{spec.weights}' needs model 'corrected' with notes = '{notes}', and there is"
        " no such file; put it there"
    )
    shutil.rmtree(tmp_path / "site")
    sys.modules.pop("align_words")
    with pytest.raises(PartError) as uninstalled:
        spec.build(CPU)
    assert str(uninstalled.value) == (
        f"weights: '{spec.weights}' needs model 'corrected' of align-words 1.2, which is not"
        " installed; pip install align-words"
    )


def test_a_module_of_another_architecture_is_one_line(words, tmp_path):
    mode = attrs.evolve(MODE, steps=1, pool=64)
    export = mode.export(*trained(mode, words.CorrectedSpec(), 8)[:2])
    about = {**export.about, "model": {**export.about["model"], "width": 8}}
    with pytest.raises(PartError, match="does not fit its own 'model': size mismatch") as caught:
        opened(tmp_path, attrs.evolve(export, about=about)).build(CPU)
    assert "\n" not in str(caught.value)


def test_a_model_that_no_plugin_brings_is_not_written(words):
    mode = attrs.evolve(MODE, steps=1, pool=64)
    problem, state, _ = trained(mode, words.CorrectedSpec(), 8)
    with pytest.raises(PartError, match="no weights file can name a model that was built by hand"):
        mode.export(attrs.evolve(problem, part=None), state)


def test_a_network_learns_the_velocity_in_the_place_of_a_module(words, tmp_path):
    mode = attrs.evolve(MODE, net=MLPConfig(width=8, depth=1), steps=2, pool=64)
    problem, state, base = trained(mode, words.CorrectedSpec(), 8)
    spec = opened(tmp_path, mode.export(problem, state))
    again = spec.build(CPU)
    assert isinstance(again, NetworkModel)
    assert again.path == base.path
    x, t = torch.ones(2, 2), torch.tensor([0.3, 0.6])
    cond, other = (again.encode(prompts) for prompts in (["near", "left"], ["left", "near"]))
    assert torch.equal(cond.tensors["words"], base.encode(["near", "left"]).tensors["words"])
    assert not torch.equal(again.velocity(x, t, cond), base.velocity(x, t, cond))
    assert not torch.equal(again.velocity(x, t, cond), again.velocity(x, t, other))
    guided = attrs.evolve(spec, guidance=3.0).build(CPU)
    assert guided.rows_per_velocity == 2
    plain, null = again.velocity(x, t, cond), again.velocity(x, t, again.encode(["", ""]))
    torch.testing.assert_close(guided.velocity(x, t, cond), null + 3 * (plain - null))


@pytest.mark.parametrize(
    ("precision", "lora"),
    [("float16", None), ("bfloat16", Lora(rank=2, alpha=2.0)), ("float64", None)],
    ids=str,
)
def test_a_module_of_half_precision_is_trained_in_float32(precision, lora, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(HALF.format(precision))
    mode = attrs.evolve(MODE, steps=2, pool=64, lora=lora)
    mode = attrs.evolve(mode, optimisation=Optimisation(batch=16, warmup=0))
    own = getattr(torch, precision)
    trained_in = torch.promote_types(own, torch.float32)
    problem, state, model = trained(mode, Torch(file="own.py", shape=(2,)), 8)
    module = state.training.module
    assert {tensor.dtype for tensor in (*module.parameters(), *module.buffers())} == {trained_in}
    assert {weight.dtype for weight in model.module.parameters()} == {own}
    tuned = state.model.with_module(state.training.ema)
    assert tuned.dtype == model.dtype == mode.finish(problem, state).dtype == trained_in
    again = attrs.evolve(opened(tmp_path, mode.export(problem, state)), code="own.py").build(CPU)
    assert {weight.dtype for weight in again.module.parameters()} == {own}
