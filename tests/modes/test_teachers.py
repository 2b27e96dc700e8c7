"""Recipes whose teacher is a model of another distribution, from its samples to a steered map."""

import json

import pytest

from align.catalog.registry import load_catalog
from align.core.errors import RecipeError
from align.recipe.load import load
from align.runner.session import run

DISTILL = """
[run]
samples = 2
[model]
kind = "words"
picture = {picture}
prompt = "{{left|near}}"
[mode]
kind = "distill"
net = {net}
pool = 16
flow_steps = 4
steps = 2
optimisation = {{ batch = 8, warmup = 1 }}
"""
STEER = """
[run]
samples = 4
unsteered = 4
[model]
kind = "network"
weights = "{weights}"
prompt = "{{left|near}}"
[sampler]
kind = "mfm"
[estimator]
kind = "gradient"
[[reward]]
kind = "statistic"
of = "brightness"
[mode]
kind = "steer"
steps = 3
[[compare]]
name = "map"
[[compare]]
name = "teacher"
model = {{ kind = "words", picture = true }}
sampler = {{ kind = "glass", steps = 2 }}
"""
STUDY = """
[run]
samples = 8
[model]
kind = "network"
weights = "{weights}"
prompt = "left"
[sampler]
kind = "mfm"
[mode]
kind = "posterior_recovery"
metric = "sliced_wasserstein"
"""
FINETUNE = """
[run]
samples = 2
[model]
kind = "{kind}"
{options}
prompt = "left"
[[reward]]
kind = "likelihood"
matrix = [[1.0, 0.0]]
observed = [1.0]
std = 0.5
[mode]
kind = "finetune"
objective = {{ kind = "stein", draws_from = "data" }}
pool = 16
flow_steps = 4
steps = 2
evaluation = {{ samples = 4, flow_steps = 4 }}
optimisation = {{ batch = 8, warmup = 1 }}
"""


@pytest.fixture
def go(words, tmp_path, monkeypatch):
    """Runs a recipe of this name, and gives its folder."""
    monkeypatch.chdir(tmp_path)

    def go(name, text):
        (tmp_path / f"{name}.toml").write_text(text)
        return run(f"{name}.toml", progress=False).folder.absolute()

    return go


def test_a_picture_model_is_distilled_steered_and_compared(go, tmp_path):
    net = '{ kind = "unet", widths = [8], blocks = 1 }'
    out = go("distill", DISTILL.format(picture="true", net=net))
    text = STEER.format(weights=out / "model.safetensors")
    (tmp_path / "check.toml").write_text(text)
    loaded = load(tmp_path / "check.toml", catalog=load_catalog())
    assert loaded.recipe.arms()[0].model.domain == "image"
    steered = go("steer", text)
    assert (steered / "grid.png").is_file()
    assert len(list((steered / "samples").rglob("*.png"))) == 8
    origins = json.loads((steered / "about.json").read_text())["origins"]
    assert "align_words.WordsSpec" in origins


def test_a_study_of_a_map_has_the_samples_of_its_teacher_for_data(go):
    out = go("distill", DISTILL.format(picture="false", net='{ kind = "mlp", width = 8 }'))
    study = go("study", STUDY.format(weights=out / "model.safetensors"))
    assert (study / "results.json").is_file()


@pytest.mark.parametrize(
    ("kind", "options"), [("corrected", "width = 8"), ("words", "std = 0.4")], ids=str
)
def test_a_fine_tuned_model_is_tuned_again(kind, options, go):
    text = FINETUNE.format(kind=kind, options=options)
    if kind == "words":
        text = text.replace("pool = 16", 'pool = 16\nnet = { kind = "mlp", width = 8 }')
    out = go("first", text)
    weights = f'weights = "{out / "model.safetensors"}"'
    again = go("second", FINETUNE.format(kind="network", options=weights))
    assert (again / "model.safetensors").is_file()


def test_a_network_of_vectors_for_pictures_is_refused_at_its_line(go):
    with pytest.raises(RecipeError, match=r"'mlp' of mode\.net is for vectors, but model 'words'"):
        go("distill", DISTILL.format(picture="true", net='{ kind = "mlp", width = 8 }'))


def test_check_says_what_a_file_of_a_missing_plugin_needs(go, tmp_path, monkeypatch):
    out = go("distill", DISTILL.format(picture="false", net='{ kind = "mlp", width = 8 }'))
    monkeypatch.undo()
    (tmp_path / "study.toml").write_text(STUDY.format(weights=out / "model.safetensors"))
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "study.toml", catalog=load_catalog())
    assert "needs model 'words' of align-words 1.2, which is not installed" in str(caught.value)
    assert "study.toml:" in str(caught.value)


@pytest.mark.parametrize("mode", [DISTILL, FINETUNE], ids=["distill", "finetune"])
def test_a_model_without_a_network_is_refused_before_anything_is_sampled(mode, go, tmp_path):
    text = mode.format(kind="words", options="", picture="false", net="{}").replace(
        "net = {}\n", ""
    )
    with pytest.raises(RecipeError, match=r"r\.toml:\d+: mode\.net: the model has no (net|mod)"):
        go("r", text)
    assert "samples" not in "".join(log.read_text() for log in tmp_path.rglob("log.txt"))
