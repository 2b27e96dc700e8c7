"""Objectives and a training mode of other distributions, used in recipes without touching align."""

import json
import sys
from importlib.metadata import EntryPoint

import pytest
import torch

from align.catalog.registry import load_catalog
from align.core.errors import RecipeError
from align.models.network import load
from align.runner.session import run

pytestmark = pytest.mark.usefixtures("unpainted")
MATCHING = '''
"""A fine-tuning objective in a distribution of its own."""

from typing import ClassVar

import attrs

from align import FinetuneObjective, Loss, Streams, TiltedTarget, hookimpl, option, regression


@attrs.frozen(kw_only=True)
class Matching(FinetuneObjective):
    """Reward-weighted flow matching."""

    kind: ClassVar[str] = "matching"
    needs_gradient: ClassVar[bool] = False
    needs_sampler: ClassVar[bool] = False
    weighs: ClassVar[bool] = True

    start: float = option("earliest time that is trained", default=0.0)

    def loss(self, target: TiltedTarget, rows: Streams) -> Loss:
        noisy, x1 = target.noisy(rows, self.start)
        draws, path = target.clean_draw(noisy, x1), target.student.path
        goals = path.velocity_from_denoiser(x1, noisy.x, noisy.t)[None]
        row_weights = 1 / (1 + path.denoiser_to_velocity(noisy.t).square())
        return regression(target, noisy, draws, goals, row_weights)[1]


@hookimpl
def align_objectives():
    return [Matching]
'''
CHORDS = '''
"""A consistency loss in another distribution."""

from typing import ClassVar

import attrs
import torch

from align import ConsistencyLoss, expand, hookimpl


@attrs.frozen(kw_only=True)
class Chords(ConsistencyLoss):
    """A jump equals two jumps through its middle."""

    kind: ClassVar[str] = "chords"

    def residual(self, inner, s, u):
        y, middle = inner.state(s), (s + u) / 2
        with torch.no_grad():
            first = inner.average(y, s, middle)
            second = inner.average(y + expand(middle - s, y) * first, middle, u)
        return inner.average(y, s, u) - (first + second) / 2


@hookimpl
def align_objectives():
    return [Chords]
'''
FIT = '''
"""A training mode in a third distribution: it is its network, its loss and its export."""

from typing import ClassVar

import attrs
from torch import nn

from align import Export, Loss, Training, TrainingMode, TrainingState, hookimpl


@attrs.frozen(kw_only=True)
class FitSine(TrainingMode[TrainingState]):
    """Fits a network to the sine."""

    kind: ClassVar[str] = "fit_sine"
    needs: ClassVar = frozenset()

    def init(self, problem, streams):
        layers = lambda: nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 1))
        net = streams.initialise(layers)
        return TrainingState(Training.of(net, self.optimisation))

    def loss(self, problem, state, rows, index):
        x = rows.normal((1,)).float()
        return Loss((state.training.module(x) - x.sin()).square().mean(1))

    def exported_model(self, problem, state, network):
        return Export({"net": network}, {"fitted": "sine"})


@hookimpl
def align_modes():
    return [FitSine]
'''
LINE = """
[run]
samples = 4
unsteered = 0
[model]
kind = "mixture"
weights = [0.4, 0.6]
means = [[-2.0], [2.0]]
stds = [0.5, 0.7]
"""
FINETUNE = (
    LINE
    + """
[[reward]]
kind = "likelihood"
matrix = [[1.0]]
observed = [1.0]
std = 0.7
[mode]
kind = "finetune"
objective = { kind = "matching", start = 0.02 }
net = { kind = "mlp", width = 8, depth = 1 }
steps = 3
optimisation = { batch = 8, warmup = 1 }
evaluation = { samples = 4, flow_steps = 4 }
"""
)
DISTILL = (
    LINE
    + """
[mode]
kind = "distill"
consistency = { kind = "chords" }
net = { kind = "mlp", width = 8, depth = 1 }
steps = 3
optimisation = { batch = 8, warmup = 1 }
"""
)
SINE = """
[mode]
kind = "fit_sine"
steps = 60
optimisation = { batch = 32, warmup = 1, learning_rate = 0.02, ema_decay = 0.5 }
"""


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    """The built-in parts, and those of three distributions beside align."""
    monkeypatch.syspath_prepend(tmp_path)
    points = []
    for name, text in (("outside_a", MATCHING), ("outside_b", CHORDS), ("outside_c", FIT)):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        points.append(EntryPoint(name=name, value=name, group="align"))
    loaded = load_catalog(points)
    assert not loaded.broken
    return loaded


@pytest.fixture
def go(catalog, tmp_path):
    def go(text):
        (tmp_path / "r.toml").write_text(text)
        out = tmp_path / "out"
        run(tmp_path / "r.toml", sets=[f'run.out="{out}"'], progress=False, catalog=catalog)
        return out

    return go


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines]


def test_objective_of_another_distribution_fine_tunes(go):
    out = go(FINETUNE)
    assert len(losses(out)) == 3
    assert load(out / "model.safetensors", torch.device("cpu")).flow is not None
    assert 'kind = "matching"' in (out / "recipe.toml").read_text()
    parts = json.loads((out / "about.json").read_text())["origins"]
    assert "outside_a.Matching" in parts


def test_consistency_loss_of_another_distribution_distills(go):
    out = go(DISTILL)
    assert load(out / "model.safetensors", torch.device("cpu")).posterior is not None
    assert 'kind = "chords"' in (out / "recipe.toml").read_text()


def test_training_mode_of_another_distribution_trains_and_resumes(go):
    found = losses(out := go(SINE))
    assert sum(found[-10:]) < 0.3 * sum(found[:10])
    assert [path.name for path in out.glob("checkpoint*")] == ["checkpoint-60"]
    assert losses(go(SINE)) == found
    assert "60 steps, from step 60" in (out / "log.txt").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            FINETUNE.replace('kind = "matching", start = 0.02', 'kind = "chords"'),
            "mode.objective.kind: expected a FinetuneObjective, but objective 'chords' is a Chords;"
            " known are 'adjoint_matching', 'awm', 'draft', 'gradient', 'matching', 'nft', 'refl',"
            " 'stein'",
        ),
        (
            FINETUNE.replace('"matching", start = 0.02', '"machting"'),
            "mode.objective.kind: no objective named 'machting'; did you mean 'matching'?",
        ),
        (
            DISTILL.replace('"chords"', '"draft"'),
            "mode.consistency.kind: expected a ConsistencyLoss, but objective 'draft' is a Draft;"
            " known are 'chords', 'eulerian', 'lagrangian', 'mean_flow', 'semigroup', 'shortcut'",
        ),
        (
            DISTILL.replace('"chords"', '"shortcuts"'),
            "mode.consistency.kind: no objective named 'shortcuts'; did you mean 'shortcut'?",
        ),
    ],
)
def test_objective_of_another_contract_is_refused(go, text, message):
    with pytest.raises(RecipeError) as caught:
        go(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
