"""Models of other distributions as teachers: their maps, conditions, pictures and files."""

import json
import shutil
import sys

import attrs
import numpy as np
import pytest
import torch
from loguru import logger
from PIL import Image

from align.core.dataset import DatasetSpec
from align.core.errors import PartError, PromptError
from align.core.model import (
    Condition,
    DataSampler,
    FlowMap,
    NoisyState,
    PosteriorMap,
    Scheduled,
)
from align.core.network import NetworkSpec
from align.core.problem import Problem
from align.core.streams import Streams
from align.datasets.pictures import Pictures
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.models.network import Network
from align.models.network_model import NetworkModel, Teacher
from align.modes.distill.diagonal import DataTarget
from align.modes.distill.mode import Distill
from align.networks.mlp import MLP, MLPConfig
from align.networks.unet import UNetConfig
from align.testing.distances import w1
from align.training import weights
from align.training.loop import Optimisation

CPU, STREAMS = torch.device("cpu"), Streams(0, (0,))
MODE = Distill(
    net=MLPConfig(width=48, depth=2),
    optimisation=Optimisation(batch=192, learning_rate=1e-2, warmup=20, ema_decay=0.97),
    pool=1000,
    flow_steps=25,
    steps=200,
)

QUICK = attrs.evolve(
    MODE,
    net=MLPConfig(width=8, depth=1),
    optimisation=Optimisation(batch=16, warmup=1),
    pool=16,
    flow_steps=5,
    steps=2,
)


def teaching(part, *prompts):
    guarded = GuardedModel(part.build(CPU), part.kind, Meter(), 1 << 20)
    return Problem(guarded, prompts=prompts or ("",), part=part)


def trained(mode, problem):
    state = mode.init(problem, STREAMS)
    for index in range(mode.steps):
        state, _ = mode.step(problem, state, index, STREAMS)
    return state


def opened(tmp_path, export):
    path = tmp_path / "model.safetensors"
    weights.write(path, export.modules, export.about)
    return Network(weights=str(path))


@torch.no_grad()
def draws_of(model, x, t, prompt, count=1000):
    """One-step draws (N, 2) of a map at one state."""
    time = torch.full((count,), t)
    noisy = NoisyState(x.expand(count, -1), time, model.encode([prompt] * count))
    noise = Streams(3, tuple(range(count))).normal((2,)).float()
    return model.posterior_jump(noise, torch.zeros(count), torch.ones(count), noisy)


@pytest.mark.parametrize(
    ("kind", "path"),
    [("words", "trigonometric"), ("named", "linear")],
)
def test_map_draws_from_the_posterior_of_each_prompt(kind, path, words, tmp_path):
    part = {"words": words.WordsSpec, "named": words.NamedSpec}[kind](path=path, std=0.5)
    problem = teaching(part, "left", "far")
    state = trained(MODE, problem)
    again = opened(tmp_path, MODE.export(problem, state)).build(CPU)
    assert isinstance(again, NetworkModel)
    assert again.path == problem.model.path
    x, apart = torch.tensor([0.2, -0.1]), []
    for prompt, centre in (("left", (1.0, 0.0)), ("far", (-1.0, 0.0))):
        for t in (0.0, 0.4):
            alpha, beta = (f(torch.tensor(t)) for f in (again.path.alpha, again.path.beta))
            variance = alpha**2 + beta**2 * 0.25
            mean = torch.tensor(centre)
            mean = mean + beta * 0.25 / variance * (x - beta * mean)
            exact = mean + 0.5 * alpha / variance.sqrt() * Streams(4, (0,)).normal((1000, 2))[0]
            draws = draws_of(again, x, t, prompt)
            apart += [w1(draws[:, k].double(), exact[:, k].double()) for k in range(2)]
    assert sum(apart) / len(apart) < 0.15
    assert max(apart) < 0.3  # another prompt's law is 1 or 2 away
    # Where no flow was trained, the velocity is the teacher's own.
    cond, t = again.encode(["left", ""]), torch.tensor([0.3, 0.6])
    assert torch.equal(
        again.velocity(x.expand(2, -1), t, cond), problem.model.velocity(x.expand(2, -1), t, cond)
    )


def test_conditions_and_pictures_of_the_teacher_are_kept_in_a_file(words, tmp_path):
    part = words.WordsSpec(picture=True)
    fast = Optimisation(batch=16, warmup=1, learning_rate=0.03, ema_decay=0.5)
    net = UNetConfig(widths=(8,), blocks=1)
    mode = attrs.evolve(QUICK, net=net, optimisation=fast, steps=10)
    problem = teaching(part, "left far", "near")
    state = trained(mode, problem)
    assert state.coupling.model.features == 3 * 16
    export = mode.export(problem, state)
    assert {**export.about["model"]} == {
        "kind": "words",
        "prompt": "",
        "std": 0.3,
        "path": "trigonometric",
        "picture": True,
        "plugin": "align-words 1.2",
    }
    spec = opened(tmp_path, export)
    assert spec.domain == "image"
    assert spec.state_shape == (1, 4, 4)
    assert spec.provides == {FlowMap, PosteriorMap}
    again, teacher = spec.build(CPU), problem.model
    x1 = Streams(1, (0, 1)).normal((1, 4, 4)).float()
    assert torch.equal(again.decode(x1), teacher.decode(x1))
    assert again.decode(x1).shape == (2, 3, 4, 4)
    with pytest.raises(PromptError, match="no word 'up'"):
        again.encode(["up"])
    # The condition matters to the map as to the teacher.
    jump, time = again.posterior_jump, torch.full((2,), 0.5)
    one, other = again.encode(["left", "near"]), again.encode(["near", "left"])
    moved = jump(x1, 0 * time, time, NoisyState(x1, time, one))
    assert not torch.allclose(moved, jump(x1, 0 * time, time, NoisyState(x1, time, other)))
    with pytest.raises(PartError, match=r"model\.guidance: the velocity of .* 'words'"):
        attrs.evolve(spec, guidance=2.0).build(CPU)
    shutil.rmtree(tmp_path / "site")
    sys.modules.pop("align_words")
    with pytest.raises(PartError, match=r"needs model 'words' of align-words 1\.2, which is not"):
        spec.build(CPU)


def test_the_ladder_of_another_model_and_its_tuned_flow_keep_the_teacher(words, tmp_path):
    problem = teaching(words.WordsSpec(), "left", "near")
    first = attrs.evolve(QUICK, role="flow_map")
    spec = opened(tmp_path, first.export(problem, trained(first, problem)))
    assert spec.provides == {FlowMap}
    second = attrs.evolve(QUICK, net=None)
    problem = teaching(spec, "left", "near")
    export = second.export(problem, trained(second, problem))
    assert set(export.about["nets"]) == {"flow_map", "posterior"}
    assert export.about["model"]["kind"] == "words"
    (tmp_path / "second").mkdir()
    spec = opened(tmp_path / "second", export)
    assert spec.provides == {FlowMap, PosteriorMap}
    again = spec.build(CPU)
    assert again.features == 6
    assert again.encode(["left"]).tensors["words"].shape == (1, 3, 2)


def test_the_own_grid_of_a_teacher_is_that_of_its_maps(words, tmp_path):
    class Stepping(words.Words, Scheduled):
        def times(self, steps):
            return (*(k / steps / 2 for k in range(steps)), 1.0)

        def begin(self, noise, steps):
            return noise

    part = words.WordsSpec()
    model = NetworkModel(shape=(2,), teacher=Teacher(Stepping(part), part), domain="vector")
    assert model.capability(Scheduled).times(2) == (0, 0.25, 1)
    assert model.capability(PosteriorMap) is None
    tuned = attrs.evolve(model, flow=MLP(MLPConfig(width=8), (2,), 0, "flow", 6), features=6)
    assert tuned.capability(Scheduled) is not None
    assert tuned.capability(DataSampler) is None


def test_a_teacher_that_refuses_an_empty_prompt_needs_none(words, monkeypatch):
    def encode(self, prompts):
        if "" in prompts:
            raise PromptError("say something")
        return own(self, prompts)

    own = words.Words.encode
    monkeypatch.setattr(words.Words, "encode", encode)
    problem = teaching(words.WordsSpec(), "left", "near")
    state = trained(attrs.evolve(QUICK, dropout=0.5), problem)
    _, cond = state.coupling.clean.rows(STREAMS.numbered(0, 20))
    assert set(cond.prompts) == {"left", "near"}
    with pytest.raises(PartError, match="the model refuses an empty one; leave guidance out"):
        trained(attrs.evolve(QUICK, guidance=2.0, diagonal=DataTarget()), problem)


def test_some_rows_of_a_pool_are_trained_without_their_prompt(words):
    problem = teaching(words.WordsSpec(), "left", "near")
    state = attrs.evolve(QUICK, dropout=0.5).init(problem, STREAMS)
    _, cond = state.coupling.clean.rows(STREAMS.numbered(0, 40))
    assert 10 < cond.prompts.count("") < 30
    assert torch.equal(cond.tensors["words"], problem.model.encode(cond.prompts).tensors["words"])


def test_a_pool_tells_its_cost_and_is_that_of_the_run(words):
    problem, lines = teaching(words.WordsSpec(), "left", "near"), list[str]()
    logger.enable("align")
    sink = logger.add(lines.append, format="{message}")
    state = QUICK.init(problem, STREAMS)
    logger.remove(sink)
    logger.disable("align")
    text = "clean data are 16 samples of the model's own flow, in 5 steps each: 80 NFE\n"
    assert lines == [text]
    assert problem.model.meter.calls["network"] == 80
    assert state.coupling.clean.examples.states.shape == (1, 16, 2)


def test_a_network_that_knows_labels_alone_is_refused_in_one_line(words):
    class LabelsAlone(NetworkSpec):
        kind, domain, build = "labels_alone", None, None

    mode = attrs.evolve(QUICK, net=LabelsAlone())
    with pytest.raises(PartError) as caught:
        mode.init(teaching(words.WordsSpec()), STREAMS)
    assert str(caught.value) == (
        "net: 'labels_alone' is told a condition by its label alone, and the model's conditions are"
        " more than labels; use 'mlp', 'unet' or 'dit'"
    )


@pytest.mark.parametrize(("empty", "named"), [(4, 9), (-1, 0)])
def test_labels_that_are_no_numbers_of_classes_are_refused(empty, named, words, monkeypatch):
    def encode(self, prompts):
        labels = [named if prompt else empty for prompt in prompts]
        return Condition(tuple(prompts), {"label": torch.tensor(labels)})

    monkeypatch.setattr(words.Named, "encode", encode)
    with pytest.raises(PartError, match=r"has label (9|-1), but its 4 classes are counted from 0"):
        QUICK.init(teaching(words.NamedSpec(), "left"), STREAMS)


def test_data_that_do_not_say_their_prompt_are_refused(words):
    class Points(DatasetSpec):
        kind, domain, open = "points", "vector", None

    mode = attrs.evolve(QUICK, data=Points())
    with pytest.raises(PartError, match="do not say which of 2 prompts they are of; leave the"):
        mode.init(teaching(words.WordsSpec(), "left", "near"), STREAMS)


def test_pictures_of_classes_are_data_of_a_teacher_that_encodes_them(words, tmp_path):
    shades = {"left": 10, "right": 80, "far": 150, "near": 220}
    for name, shade in shades.items():
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        picture = np.full((4, 4, 3), shade, np.uint8)
        Image.fromarray(picture).save(tmp_path / "data" / "train" / name / "a.png")
    latents = tmp_path / "latents"
    data = Pictures(path=str(tmp_path / "data"), split="train", latents=str(latents))
    mode = attrs.evolve(QUICK, net=UNetConfig(widths=(8,), blocks=1), data=data, dropout=0.3)
    problem = teaching(words.NamedSpec(picture=True))
    for _ in range(2):  # the second reads what the first wrote
        state = trained(mode, problem)
        x1, cond = state.coupling.clean.rows(STREAMS.numbered(0, 40))
        assert set(cond.prompts) == {*shades, ""}
        for row, prompt in zip(x1, cond.prompts, strict=True):
            if prompt:
                wanted = torch.full((1, 4, 4), 2 * shades[prompt] / 255 - 1)
                assert torch.allclose(row, wanted, atol=1e-6)
    assert problem.model.meter.calls["network"] > 0
    origin = json.loads((latents / "about.json").read_text())["made_from"]["autoencoder"]
    assert len(origin) == 64
