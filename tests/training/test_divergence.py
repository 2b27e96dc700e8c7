"""Training whose numbers grow without bound ends with an error, and with the last good weights."""

import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from align.catalog.registry import load_catalog
from align.core.errors import DivergedError, PartError
from align.core.objective import Loss
from align.core.streams import Streams
from align.io.files import digest
from align.models.about import spec_table
from align.networks.autoencoder import Autoencoder, AutoencoderConfig
from align.runner.session import run
from align.training import weights
from align.training.checkpoint import PROGRESS
from align.training.loop import Optimisation, Training, advance

pytestmark = pytest.mark.usefixtures("unpainted")
STREAMS = Streams(0, (0,))


def begun(**options):
    """One weight of 1 that is trained by plain gradient descent, and the options of that."""
    options = {"optimiser": "sgd", "betas": (0.0, 0.0), "warmup": 0, "batch": 4} | options
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    optimisation = Optimisation(**options)
    return Training.of(net, optimisation), optimisation


def spoilt(training, spoil, spoilt_row=2):
    """A loss that is spoilt in one row."""

    def loss(rows):
        numbers = torch.tensor(rows.samples)
        values = training.module(torch.ones(len(numbers), 1))[:, 0].square()
        return Loss(torch.where(numbers == spoilt_row, spoil(values), values))

    return loss


SPOILS = {
    "a loss that is no number": (lambda v: v * math.nan, "the loss is nan"),
    "an infinite loss": (lambda v: v / 0, "the loss is inf"),
    # The square root has an infinite slope at 0.
    "a gradient alone": (lambda v: (v - v).sqrt(), "the norm of the gradient is nan"),
}


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SPOILS)
def test_a_step_with_numbers_that_are_not_finite_leaves_the_weights(name, precision, pieces):
    spoil, text = SPOILS[name]
    training, options = begun(precision=precision, grad_accumulation=pieces, learning_rate=0.25)
    with pytest.raises(DivergedError, match=text) as caught:
        advance(training, spoilt(training, spoil), options, STREAMS, 0, 4)
    message = str(caught.value)
    assert "lower mode.optimisation.learning_rate, 0.25" in message
    assert "max_grad_norm, 1" in message
    assert ("precision = 'float32'" in message) == (precision == "bfloat16")
    for module in (training.module, training.ema):
        assert module.weight.tolist() == [[1.0]]


def test_a_step_that_spoils_the_weights_is_told_at_once():
    training, options = begun(learning_rate=3e38, max_grad_norm=10.0, decay="none")
    with pytest.raises(
        DivergedError, match=r"the norm of the weights is inf after a gradient of norm"
    ):
        advance(training, spoilt(training, lambda v: v), options, STREAMS, 0, 4)
    assert training.ema.weight.tolist() == [[1.0]]


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("too_large", ["learning_rate", "weight_decay"])
def test_a_step_that_no_float_holds_is_told_with_what_was_set(optimiser, too_large):
    training, options = begun(
        **{"optimiser": optimiser, "decay": "none", "learning_rate": 1.0, too_large: 1e300}
    )
    with pytest.raises(DivergedError, match=rf"{too_large}, 1e\+300") as caught:
        advance(training, spoilt(training, lambda v: v), options, STREAMS, 0, 4)
    assert "training has diverged: " in str(caught.value)


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    net, path = nn.Linear(1, 1), tmp_path / "m.safetensors"
    nn.init.constant_(net.weight, 1e5)
    weights.write(path, {"net": net}, {}, torch.float32)
    before = path.read_bytes()
    with pytest.raises(DivergedError, match=r"'net.weight' .* not finite in float16"):
        weights.write(path, {"net": net}, {}, torch.float16)
    nn.init.constant_(net.weight, math.nan)
    with pytest.raises(DivergedError, match=r"'net.weight' .* not finite in float32"):
        weights.write(path, {"net": net}, {}, torch.float32)
    assert path.read_bytes() == before


# Without clipping, and with a rate that is far too high, losses grow by a factor every step.
TRAINING = """
steps = 400
[mode.optimisation]
batch = 8
optimiser = "sgd"
warmup = 0
decay = "none"
learning_rate = 30.0
max_grad_norm = 1e30
"""
MIXTURE = """
[model]
kind = "mixture"
weights = [0.4, 0.6]
means = [[-2.0, 0.0], [2.0, 1.0]]
stds = [0.5, 0.7]
[sampler]
kind = "mfm"
[[reward]]
kind = "likelihood"
matrix = [[1.2, -0.8]]
observed = [-1.0]
std = 0.7
[mode]
net = { kind = "mlp", width = 8, depth = 1 }
"""
TUNED = 'kind = "finetune"\nevaluation = { every = 1000, samples = 4 }\n'
MODES = {
    "distill": MIXTURE + 'kind = "distill"\n',
    "distill by a teacher's velocity": MIXTURE
    + 'kind = "distill"\nconsistency = { kind = "lagrangian", velocity = "teacher" }\n',
    "finetune by gradients": MIXTURE + TUNED,
    "finetune by draws": MIXTURE + TUNED + 'objective = "stein"\n',
    "finetune by the reward": MIXTURE + TUNED + 'objective = "draft"\n',
    "evaluations while it is fine-tuned": MIXTURE + TUNED.replace("1000", "1"),
    "autoencode": '[mode]\nkind = "autoencode"\nnet = { width = 8, levels = 1, latents = 4 }\n'
    + 'data = { path = "{data}" }\n',
    "pretrain": """
[model]
kind = "network"
autoencoder = "{data}/auto.safetensors"
path = "trigonometric"
net = { kind = "dit", width = 16, depth = 2, heads = 2, encoder_depth = 1 }
[mode]
kind = "pretrain"
data = { path = "{data}" }
""",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two pictures of 8 x 8 pixels, and an untrained autoencoder."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "train/one").mkdir(parents=True)
    for k in range(2):
        picture = np.full((8, 8, 3), 200 * k, dtype=np.uint8)
        Image.fromarray(picture).save(folder / "train/one" / f"{k}.png")
    config = AutoencoderConfig(width=8, levels=1, latents=4)
    outer = Streams(0, ()).initialise(lambda: Autoencoder(config))
    about = {"autoencoder": spec_table(config, load_catalog([])), "shape": (4, 4, 4)}
    weights.write(folder / "auto.safetensors", {"autoencoder": outer}, about, torch.float32)
    return folder


@pytest.fixture(scope="module")
def catalog():
    return load_catalog([])


def started(folder, recipe, catalog):
    """Start the recipe, or start it again."""
    (folder / "r.toml").write_text(recipe)
    run(folder / "r.toml", sets=[f'run.out="{folder / "out"}"'], progress=False, catalog=catalog)


def checkpoint_of(folder):
    (found,) = (folder / "out").glob("checkpoint-*")
    return found, {k: v for f in found.glob("*.safetensors") for k, v in load_file(f).items()}


@pytest.mark.parametrize("name", MODES)
def test_a_diverged_run_keeps_its_last_good_checkpoint(name, tmp_path, data, catalog):
    recipe = "[run]\ncheckpoint_every = 1\nunsteered = 0\n" + MODES[name] + TRAINING
    recipe = recipe.replace("{data}", str(data))
    with pytest.raises(DivergedError, match=r"; in step \d+ of 400") as caught:
        started(tmp_path, recipe, catalog)
    message = str(caught.value)
    assert "learning_rate" in message
    assert ("the weights of the rewards" in message or "or lower mode.strength" in message) == (
        "finetune" in MODES[name]
    )
    step = int(re.search(r"in step (\d+) of 400", message)[1])
    assert re.search(rf"the checkpoint after {step - 1} steps? is kept", message)
    folder, tensors = checkpoint_of(tmp_path)
    assert folder.name == f"checkpoint-{step - 1}"
    trained = {k: v for k, v in tensors.items() if k.startswith(("module.", "averages."))}
    assert trained
    assert all(tensor.isfinite().all() for tensor in trained.values())
    assert not list((tmp_path / "out").glob("model*.safetensors"))
    about = json.loads((tmp_path / "out/about.json").read_text())
    assert about["status"].startswith("failed: ")


def test_a_run_does_not_go_on_from_weights_that_are_not_finite(tmp_path, catalog):
    recipe = "[run]\ncheckpoint_every = 1\n" + MODES["distill"] + TRAINING
    with pytest.raises(DivergedError):
        started(tmp_path, recipe, catalog)
    folder, _ = checkpoint_of(tmp_path)
    (file,) = folder.glob("*.safetensors")
    # The same recipe goes on from there, and diverges in the same step.
    with pytest.raises(DivergedError, match="is kept"):
        started(tmp_path, recipe, catalog)
    spoil(file)
    with pytest.raises(PartError, match=r"its checkpoint holds weights that are not finite"):
        started(tmp_path, recipe, catalog)


def spoil(file):
    """Make one number of the averages in a checkpoint's file NaN, and leave the rest."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        header = opened.metadata()
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    name = next(key for key in tensors if key.startswith("averages."))
    tensors[name].view(-1)[0] = math.nan
    save_file(tensors, file, header)
    # The digests are right again: it is the numbers that are wrong.
    progress = json.loads((file.parent / PROGRESS).read_text())
    progress["files"][file.name] = digest(file)
    del progress["digest"]
    progress["digest"] = digest(json.dumps(progress, sort_keys=True).encode())
    (file.parent / PROGRESS).write_text(json.dumps(progress))
