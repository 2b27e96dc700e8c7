"""docs/how_to/model.md: both models are trained, distilled and steered, as the page says."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch

import align
from align.core.errors import PartError
from align.models.network import Network
from align.models.network_model import NetworkModel
from align.models.torch_model import TorchModel
from align.training import weights

TEXT = (Path(__file__).parents[2] / "docs" / "how_to" / "model.md").read_text()
BLOCKS = dict(re.findall(r"^```(?:python|toml)\n# (\w+\.\w+)\n(.*?)^```", TEXT, re.M | re.S))
# As the page has them, but few and small.
FEWER = {
    "moons": ["run.samples=2", "run.unsteered=32", "mode.steps=2"],
    "moons_map": ["mode.steps=1", "mode.pool=8", "mode.flow_steps=2", "mode.optimisation.batch=4"],
    "moons_steered": ["run.samples=2", "run.unsteered=0", "mode.steps=2"],
    "moons_tuned": [
        "run.samples=2",
        "run.unsteered=0",
        "mode.steps=1",
        "mode.pool=8",
        "mode.flow_steps=2",
        "mode.evaluation.samples=2",
        "mode.optimisation.batch=4",
    ],
    "shapes_map": [
        "mode.steps=1",
        "mode.net.widths=[8]",
        "mode.pool=2",
        "mode.flow_steps=2",
        "mode.optimisation.batch=2",
    ],
    "shapes_steered": ["run.samples=2", "run.unsteered=0", "mode.steps=2"],
}


def weights_of(name):
    """Where a run leaves its weights: below the arm's name where there are several arms."""
    inside = "weights/tuned/" if name == "moons_tuned" else ""
    return f"runs/{name}/{inside}model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the page, all of its commands done in it."""
    folder = tmp_path_factory.mktemp("page")
    commands = re.findall(r"^(python \w+\.py|align \w+ \w+\.toml)$", TEXT, re.M)
    assert len(commands) == 9 and len(BLOCKS) == 8
    for name, text in BLOCKS.items():
        (folder / name).write_text(re.sub(r"^STEPS = \d+$", "STEPS = 2", text, flags=re.M))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands:
            program, *arguments = command.split()
            if program == "python":
                runpy.run_path(arguments[0], run_name="__main__")
            elif arguments[0] == "run":
                name = arguments[1].removesuffix(".toml")
                align.run(arguments[1], sets=["run.device='cpu'", *FEWER[name]], progress=False)
    return folder


@pytest.fixture
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_every_run_of_the_page_ends_with_samples_or_weights(folder):
    for name in FEWER:
        results = json.loads((folder / "runs" / name / "results.json").read_text())
        trained = (folder / weights_of(name)).is_file()
        assert trained is name.endswith(("map", "tuned"))
        assert trained or all(arm["samples"] == 2 for arm in results["arms"])
    table = (folder / "runs/moons/table.md").read_text()
    assert "norm / unsteered" in table and "residual / unsteered" in table


def test_map_keeps_classes_path_and_pictures_of_its_teacher(inside):
    model = Network(
        weights="runs/shapes_map/model.safetensors", code="shapes.py", prompt="a disc"
    ).build(torch.device("cpu"))
    assert isinstance(model, NetworkModel)
    assert model.classes == ("disc", "square") and model.domain == "image"
    assert type(model.path).__name__ == "TrigonometricPath"
    data = model.decode(torch.tensor([-3.0, 0.0, 0.5, 3.0]).repeat(64).reshape(1, 1, 16, 16))
    assert data.shape == (1, 3, 16, 16) and data[0, 0, 0, :4].tolist() == [0.0, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("run", "code", "nets"),
    [
        ("moons_tuned", "moons", "that of model 'torch'"),
        ("shapes_map", "shapes", "posterior (unet)"),
    ],
)
def test_card_says_how_weights_around_code_are_opened(folder, run, code, nets):
    card = (folder / weights_of(run)).with_name("MODEL_CARD.md").read_text()
    assert f'    weights = "model.safetensors"\n    code = "{code}.py"\n' in card
    assert f"* Networks: {nets}\n" in card


def test_tuned_module_is_opened_in_the_place_of_the_first(inside):
    file = weights_of("moons_tuned")
    assert f"`{file}`" in TEXT
    model = Network(weights=file, code="moons.py").build(torch.device("cpu"))
    assert isinstance(model, TorchModel)
    first = torch.load("moons.pt", weights_only=True)
    tuned = model.module.state_dict()
    assert first.keys() == tuned.keys()
    assert any(not torch.equal(first[name], tuned[name]) for name in first)
    assert not any(weight.requires_grad for weight in model.module.parameters())


@pytest.mark.parametrize("name", ["moons_tuned", "shapes_map"])
def test_weights_file_runs_no_code_that_the_recipe_does_not_name(folder, name, tmp_path):
    """It holds the name of the file; that this lies where it says changes nothing."""
    file = folder / weights_of(name)
    named = weights.about(file)["model"]["file"]
    assert Path(named).is_file()
    for use in (
        lambda: Network(weights=str(file)).provides,
        lambda: Network(weights=str(file)).build(torch.device("cpu")),
    ):
        with pytest.raises(PartError) as caught:
            use()
        assert str(caught.value) == (
            f"weights: '{file}' was made with code of your own, '{named}', which no weights file"
            " may run; name the code in the recipe, as the model's option 'code'"
        )
    elsewhere = shutil.copy(named, tmp_path / "renamed.py")
    shutil.copy(Path(named).with_suffix(".pt"), tmp_path / "renamed.pt")
    assert Network(weights=str(file), code=str(elsewhere)).build(torch.device("cpu")).shape
