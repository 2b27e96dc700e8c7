"""A map that is tilted in one go: rows count e^{r(x1) − c}."""

import attrs
import pytest
import torch
from loguru import logger

from align.core.model import Condition, NoisyState
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.streams import Streams
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.models.network import load
from align.modes.distill.coupling import Clean
from align.modes.distill.diagonal import DataTarget
from align.modes.distill.eulerian import Eulerian
from align.modes.distill.lagrangian import Lagrangian
from align.modes.distill.mode import Distill
from align.modes.distill.tilt import Tilt
from align.modes.distill.times import Times
from align.networks.mlp import MLPConfig
from align.testing.distances import w1
from align.testing.probes import scaled
from align.testing.worlds import line, line_part
from align.training import weights
from align.training.latents import Examples
from align.training.loop import Optimisation

STREAMS, CPU = Streams(0, (0,)), torch.device("cpu")
MODE = Distill(
    net=MLPConfig(width=32, depth=2),
    diagonal=DataTarget(),
    times=Times(full_jump_share=0.5),
    tilt=True,
    optimisation=Optimisation(batch=256, learning_rate=1e-2, warmup=20, ema_decay=0.97),
    steps=160,
)


def _problem(weight=1.0):
    model, reward = line()
    guarded = GuardedModel(model, "mixture", Meter(), 1 << 20)
    return Problem(guarded, scaled(reward, weight), part=line_part())


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A tilted map, read again from its file, and the problem that it was trained on."""
    problem, path = _problem(), tmp_path_factory.mktemp("tilt") / "model.safetensors"
    state = MODE.init(problem, STREAMS)
    for index in range(MODE.steps):
        state, _ = MODE.step(problem, state, index, STREAMS)
    export = MODE.export(problem, state)
    weights.write(path, export.modules, export.about, torch.float32)
    return load(path, CPU), problem


@torch.no_grad()
def test_tilted_map_draws_from_the_tilted_posterior_in_one_call(learnt):
    (model, problem), count = learnt, 2000
    exact, rows = line()[0], Streams(1, tuple(range(count)))
    noise = Streams(2, rows.samples).normal((1,)).float()
    for t, x in ((0.0, 0.0), (0.3, -0.9), (0.5, -1.2)):
        at = torch.full((count, 1), x, dtype=torch.float64), torch.full((count,), t).double()
        noisy = NoisyState(*at, exact.encode([""] * count))
        law = exact.posterior(noisy)
        tilted = law.draw(rows, 1, exact._form(problem.reward))[0][:, 0]
        own = NoisyState(at[0].float(), at[1].float(), model.encode([""] * count))
        drawn = model.posterior_jump(noise, torch.zeros(count), torch.ones(count), own)
        base = law.draw(rows, 1)[0][:, 0]
        assert w1(drawn[:, 0].double(), tilted) < 0.3 * w1(base, tilted), t


@torch.no_grad()
def test_velocity_of_a_tilted_map_is_its_own_and_not_the_base_models(learnt):
    (model, _), x = learnt, torch.linspace(-2, 2, 5)[:, None]
    t, cond = torch.full((5,), 0.4), model.encode([""] * 5)
    start = NoisyState(torch.zeros_like(x), torch.zeros(5), cond)
    own = model.posterior_velocity(x, t, t, start)
    torch.testing.assert_close(model.velocity(x, t, cond), own)
    base = line()[0].velocity(x.double(), t.double(), cond)
    assert float((own - base).abs().mean()) > 0.2


def test_weights_are_e_to_r_less_the_c_of_each_prompt():
    """Two prompts, of which one has the higher rewards: rows of both count alike."""
    model, reward = line()
    problem = Problem(model, reward)
    states = torch.cat((torch.full((50, 1), 1.0), torch.full((50, 1), -1.0)))[None]
    labels = torch.arange(2).repeat_interleave(50)
    cond = Condition(("near", "far"))
    clean = Clean(problem, None, cond, False, Examples(states, labels, 2), 0.0)
    tilt = Tilt.of(problem, clean, STREAMS)
    x1, some = torch.tensor([[1.0], [-1.0], [0.4]]), Condition(("near", "far", "near"))
    found = tilt.weights(x1, some)
    torch.testing.assert_close(found[:2], torch.ones(2).double())
    r = reward.total(x1.double(), some.prompts)
    torch.testing.assert_close(found[2], (r[2] - r[0]).exp())
    # A prompt that c was not measured on has the mean of the others'.
    other = tilt.weights(x1[:1], Condition(("other",)))
    torch.testing.assert_close(other.log()[0], (r[0] - r[1]) / 2)


def test_rewards_that_few_rows_carry_are_told():
    notices = list[str]()
    logger.enable("align")
    handler = logger.add(lambda line: notices.append(str(line)), level="WARNING")
    try:
        MODE.init(_problem(60.0), STREAMS)
    finally:
        logger.remove(handler)
        logger.disable("align")
    assert "of the rows carry the weight" in notices[0]


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        ({"diagonal": Distill().diagonal}, "'diagonal' with kind = 'data'"),
        ({"consistency": Eulerian()}, "'consistency' with velocity = 'self'"),
        ({"consistency": Lagrangian(velocity="teacher")}, "velocity = 'self'"),
    ],
)
def test_targets_of_the_teacher_are_refused_where_rows_are_tilted(change, cure):
    with pytest.raises(ValueError, match=cure):
        attrs.evolve(MODE, **change)


def test_a_reward_is_needed_by_a_tilt_alone():
    assert MODE.needs == {"model", "reward"}
    assert attrs.evolve(MODE, tilt=False).needs == {"model"}
    assert WeightedReward(()).optimised == ()
