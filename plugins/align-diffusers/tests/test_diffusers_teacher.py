"""Pipelines as teachers of small networks."""

import pytest
import torch
from align_diffusers import Diffusers
from align_diffusers.testing import flux, sd3, sd15

from align import Problem, Streams
from align.core.model import NoisyState, Scheduled, TokenGrid
from align.core.reward import Term, WeightedReward
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.estimators.gradient import Gradient
from align.models.network import Network
from align.models.network_model import NetworkModel
from align.modes.distill.mode import Distill
from align.modes.sampling.steer import Steer
from align.networks.dit import DiTConfig
from align.rewards.statistic import PictureStatistic
from align.samplers.mfm import MetaFlowMap
from align.training import weights
from align.training.loop import Optimisation

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CPU, PROMPTS = torch.device("cpu"), ("a cat", "a dog on a mat")


@pytest.fixture(scope="module", params=[sd15, sd3, flux], ids=["sd15", "sd3", "flux"])
def problem(request, tmp_path_factory):
    """A tiny pipeline of two prompts."""
    folder = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(0)
    request.param().save_pretrained(folder)
    part = Diffusers(weights=str(folder), height=16, width=24, guidance=2.0)
    guarded = GuardedModel(part.build(CPU), "diffusers", Meter(), 64)
    return Problem(guarded, prompts=PROMPTS, part=part)


def test_texts_in_numbers_are_of_one_size_and_told_apart(problem):
    model = problem.model
    features = model.inner.features(model.encode(["a cat", "a dog on a mat", "a cat"]))
    assert features.dim() == 2
    assert torch.equal(features[0], features[2])
    assert not torch.allclose(features[0], features[1], atol=1e-4)
    assert torch.equal(model.inner.features(model.encode(["a dog on a mat"]))[0], features[1])


def test_pipeline_is_distilled_into_a_map_that_steers(problem, tmp_path):
    mode = Distill(
        net=DiTConfig(width=16, depth=1, heads=2, patch=2),
        pool=4,
        flow_steps=2,
        optimisation=Optimisation(batch=4, warmup=1, learning_rate=0.05, ema_decay=0.5),
        steps=6,
    )
    streams = Streams(0, (0, 1))
    state = mode.init(problem, streams)
    for index in range(mode.steps):
        state, _ = mode.step(problem, state, index, streams)
    export = mode.export(problem, state)
    weights.write(tmp_path / "model.safetensors", export.modules, export.about)
    model = Network(weights=str(tmp_path / "model.safetensors")).build(CPU)
    assert isinstance(model, NetworkModel)
    assert model.capability(Scheduled).times(4) == problem.model.capability(Scheduled).times(4)
    noise = streams.normal(model.shape).float()
    zero, one = torch.zeros(2), torch.ones(2)
    jumps = [
        model.posterior_jump(noise, zero, one, NoisyState(noise, zero, model.encode(prompts)))
        for prompts in (PROMPTS, PROMPTS[::-1])
    ]
    assert not torch.equal(*jumps)
    reward = Term(name="bright", reward=PictureStatistic(of="brightness").build(CPU), weight=100.0)
    steered = Problem(
        GuardedModel(model, "network", Meter(), 64),
        WeightedReward((reward,)),
        MetaFlowMap(),
        Gradient(draws=2),
        model.encode(PROMPTS),
    )
    steer = Steer(steps=3)
    steering = steer.init(steered, streams)
    for index in range(steer.steps):
        steering, _ = steer.step(steered, steering, index, streams)
    pictures = model.decode(steer.finish(steered, steering))
    assert pictures.shape == (2, 3, 16, 24)
    assert torch.isfinite(pictures).all()


def test_packed_latents_lie_on_a_grid_in_the_shape_of_the_picture(problem):
    model = problem.model
    tokens = model.capability(TokenGrid)
    assert (tokens is None) == (len(model.shape) == 3)
    if tokens is None:
        return
    rows, columns = tokens.token_grid
    assert (rows, columns) == (4, 6)
    states = torch.zeros(1, *model.shape)
    plain = model.decode(states)
    for row, column in ((0, 5), (2, 0), (3, 4)):
        moved = states.clone()
        moved[0, row * columns + column] = 3.0
        change = (model.decode(moved) - plain).abs().sum(1)[0]
        cells = change.unflatten(0, (rows, -1)).unflatten(2, (columns, -1)).sum((1, 3))
        found = divmod(int(cells.argmax()), columns)  # or a cell beside it, as decoders blur
        assert abs(found[0] - row) <= 1
        assert abs(found[1] - column) <= 1
