"""What a weights file says of its networks, and what is said where it cannot be followed."""

import json

import attrs
import pytest
import torch

from align.catalog.registry import load_catalog
from align.core.errors import PartError, RecipeError
from align.core.network import make_network
from align.core.path import PATHS, LinearPath, TrigonometricPath
from align.core.streams import Streams
from align.models.about import about_of, exported, modules_of
from align.models.network import Network, load
from align.models.network_model import NetworkModel, Teacher
from align.models.torch import Torch
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.networks.mlp import MLP, MLPConfig
from align.recipe import load as load_recipe
from align.training import weights

CPU = torch.device("cpu")


def model(**parts):
    """A model of vectors with a flow."""
    flow = Streams(0, ()).initialise(lambda: MLP(MLPConfig(width=8), (2,), 0, "flow"))
    return NetworkModel(**{"shape": (2,), "domain": "vector", "flow": flow} | parts)


@pytest.fixture
def written(tmp_path):
    """Writes the model with some of what its file says replaced."""

    def write(change):
        path, about = tmp_path / "m.safetensors", json.loads(json.dumps(about_of(model())))
        change(about)
        weights.write(path, modules_of(model()), about, torch.float32)
        return path

    return write


def test_built_in_networks_are_named_by_kind_alone():
    assert about_of(model())["nets"] == {
        "flow": {"width": 8, "depth": 3, "kind": "mlp", "role": "flow"}
    }


@pytest.mark.parametrize("name", PATHS)
def test_a_weights_file_says_its_path(name, written):
    path = written(lambda about: about.update(about_of(model(path=PATHS[name]))))
    assert weights.about(path)["path"] == name
    again = load(path, CPU)
    assert again.path == PATHS[name]
    assert Network(weights=str(path)).build(CPU).path == PATHS[name]


def test_a_weights_file_without_a_path_is_linear(written):
    assert load(written(lambda about: about.pop("path")), CPU).path == LinearPath()


@pytest.mark.parametrize("name", ["spiral", 3, ["linear"], None])
def test_a_path_that_is_not_known_is_one_line(name, written):
    path = written(lambda about: about.update(path=name))
    with pytest.raises(PartError) as caught:
        load(path, CPU)
    assert str(caught.value) == (
        f"weights: '{path}' was trained on the path {name!r}, which is not among linear,"
        " trigonometric; use the version of align that wrote it"
    )


def test_an_untrained_flow_has_the_path_it_is_to_be_trained_on():
    untrained = {"net": MLPConfig(width=8), "shape": (2,)}
    assert Network(**untrained).build(CPU).path == LinearPath()
    assert Network(**untrained, path="linear").build(CPU).path == LinearPath()
    assert Network(**untrained, path="trigonometric").build(CPU).path == TrigonometricPath()
    with pytest.raises(ValueError, match="'path' must be left out with 'weights'"):
        Network(weights="m.safetensors", path="linear")


def test_a_network_that_is_no_velocity_network_cannot_be_described():
    with pytest.raises(PartError, match="its flow is a Linear, which no weights file can describe"):
        about_of(model(flow=torch.nn.Linear(2, 2)))


def test_an_unknown_kind_is_one_line(written):
    path = written(lambda about: about["nets"]["flow"].update(kind="spiral"))
    with pytest.raises(PartError) as caught:
        load(path, CPU)
    assert str(caught.value) == (
        f"weights: '{path}' needs network 'spiral', which no installed plugin brings;"
        " install the one that does"
    )


def test_options_of_another_version_are_one_line(written):
    path = written(lambda about: about["nets"]["flow"].update(depths=3))
    with pytest.raises(PartError) as caught:
        load(path, CPU)
    version = load_catalog([]).find("network", "mlp").origin
    text = f"weights: '{path}' holds network 'mlp' of another version than {version}: "
    assert str(caught.value).startswith(text)
    assert "depths" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_whose_autoencoder_names_no_kind_has_the_first_one(tmp_path):
    config, path = AutoencoderConfig(width=8, levels=1, latents=4), tmp_path / "m.safetensors"
    outer = Streams(0, ()).initialise(lambda: Autoencoder(config)).requires_grad_(False)
    whole = NetworkModel(shape=(4, 4, 4), autoencoder=outer)
    about = about_of(whole)
    assert about["autoencoder"] == attrs.asdict(config) | {"kind": "upsample"}
    del about["autoencoder"]["kind"]
    weights.write(path, modules_of(whole), about, torch.float32)
    again = load(path, CPU).autoencoder
    assert again.config == config
    pictures = Streams(0, (0,)).uniform((3, 8, 8)).float()
    assert torch.equal(again.encode(pictures), outer.encode(pictures))


OWN = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x, t):
        return self.layer(x)

def model():
    return Net()
"""


@pytest.fixture(params=["tuned", "map"])
def own(request, tmp_path, monkeypatch):
    """Opens, as options say, what training left of a model in own.py, its header changed."""
    monkeypatch.chdir(tmp_path)
    for name in ("own.py", "other.py"):
        (tmp_path / name).write_text(OWN + f"# {name}")
    part = Torch(file="own.py", shape=(2,), path="trigonometric")
    made = part.build(CPU)
    if request.param == "map":
        net = make_network(MLPConfig(width=8), (2,), 0, "flow_map")
        parts = {"flow": None, "flow_map": net, "teacher": Teacher(made, part), "path": made.path}
        made = model(**parts)
    export = exported(made, part)

    def spec(change=None, **options):
        about = json.loads(json.dumps(export.about))
        (change or dict)(about)
        weights.write(tmp_path / "m.safetensors", export.modules, about)
        return Network(**{"weights": "m.safetensors", "code": "own.py"} | options)

    return spec


def test_weights_are_opened_where_their_model_is_as_it_was(own):
    def older(about):
        for name in ("path", "code", "classes"):
            about.pop(name)

    assert own().build(CPU).path == TrigonometricPath() and not own().file_notes()
    assert own(older).build(CPU).path == TrigonometricPath()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("shape", [3], "when its shape was [3], and now it is [2]"),
        ("domain", "image", "when its domain was image, and now it is vector"),
        ("classes", ["a"], "when its classes was ['a'], and now it is []"),
        (
            "path",
            {"name": "LinearPath", "noise": [0.9, 0.7, 0.5, 0.3, 0.1], "data": [0.1] * 5},
            "when its path was the LinearPath, and now it is the TrigonometricPath",
        ),
        (
            "path",
            {"name": "TrigonometricPath", "noise": [0.5] * 5, "data": [0.5] * 5},
            "was the TrigonometricPath, and now it is another TrigonometricPath",
        ),
    ],
)
def test_weights_of_a_model_that_has_changed_are_refused(name, value, told, own):
    changed = own(lambda about: about.update({name: value}))
    with pytest.raises(PartError, match=r"was trained with model 'torch' when") as caught:
        changed.build(CPU)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_weights_are_not_opened_with_code_of_another_name(own):
    with pytest.raises(PartError, match=r"'m.safetensors' was made with code 'own.py', and 'code'"):
        own(code="other.py").build(CPU)


def test_code_is_known_by_its_content_and_by_its_name(own, tmp_path):
    (tmp_path / "other.py").write_text((tmp_path / "own.py").read_text())
    assert own(code="other.py").build(CPU) and not own(code="other.py").file_notes()
    assert own(code="own").build(CPU) and not own(code="own").file_notes()
    (tmp_path / "own.py").write_text(OWN + "# and more")
    assert own().build(CPU)
    assert own().file_notes() == (
        "the code in 'own.py' has changed since 'm.safetensors' was made with it.",
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ('code = ""', "r.toml:1: model: weights: 'm.safetensors' was made with code of your own"),
        (
            'code = "other.py"',
            "r.toml:1: model: weights: 'm.safetensors' was made with code 'own.p",
        ),
        ('code = "own.py"\nguidance = 2.0', "r.toml:5: model.guidance: the velocity of 'm.safeten"),
    ],
)
def test_what_a_file_cannot_be_opened_with_is_said_before_a_run(options, told, own, tmp_path):
    own()
    text = f'[model]\nkind = "network"\nweights = "m.safetensors"\n{options}\n'
    (tmp_path / "r.toml").write_text(text + '[mode]\nkind = "distill"\nnet = { kind = "mlp" }\n')
    with pytest.raises(RecipeError) as caught:
        load_recipe("r.toml", catalog=load_catalog())
    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(told)
