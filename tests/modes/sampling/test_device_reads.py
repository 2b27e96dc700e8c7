"""A step of sampling waits for the device once, at its end; what waits more often is listed."""

import pytest

from align.core.problem import Problem
from align.core.reward import Term, WeightedReward
from align.core.streams import Streams
from align.dynamics.ddim import DDIM
from align.dynamics.ddpm import DDPM
from align.dynamics.glass import GlassTransition
from align.dynamics.heun import Heun
from align.dynamics.ode import ODE
from align.dynamics.renoise import Renoise
from align.dynamics.sde import SDE
from align.engine.guard import GuardedModel, GuardedReward
from align.engine.loop import Observer, execute
from align.engine.meter import Meter
from align.estimators.blend import Blend
from align.estimators.gaussian import GaussianValue
from align.estimators.gradient import Gradient
from align.estimators.search import Search
from align.estimators.stein import Stein
from align.models.network_model import NetworkModel
from align.modes.sampling.best_of_n import BestOfN
from align.modes.sampling.steer import Steer
from align.networks.mlp import MLPConfig
from align.rewards.linear import Likelihood
from align.samplers.dps import DPS
from align.samplers.gaussian import GaussianPosterior
from align.samplers.glass import Glass
from align.samplers.mfm import MetaFlowMap
from align.samplers.renoise import Renoise as Renoising
from align.testing.fake_device import DEVICE, fake_device
from tests.waiting import Waiting

ROLES = {"flow": "flow", "flow_map": "flow_map", "posterior": "meta_flow_map"}
SAMPLERS = (MetaFlowMap(), Glass(steps=2), GaussianPosterior(), DPS())
DYNAMICS = (ODE(), Heun(), SDE(), DDPM(), DDIM(), Renoise(), GlassTransition(inner_steps=2))


class Told(Observer):
    """Keeps what each step waited for."""

    def __init__(self, waiting):
        self.waiting, self.steps = waiting, []

    def step(self, index, steps, state, info):
        self.steps.append(dict(self.waiting.counts))
        self.waiting.counts.clear()

    def due(self, index):
        return False

    stopping = lambda self: False  # noqa: E731
    checkpoint = None


@pytest.fixture(scope="module")
def world():
    with fake_device() as device:
        nets = {
            name: Streams(0, (), (name,))
            .initialise(lambda role=role: MLPConfig(width=8, depth=1).build((2,), 0, role))
            .to(device)
            .requires_grad_(False)
            for name, role in ROLES.items()
        }
        model = NetworkModel(shape=(2,), domain="vector", device=device, **nets)
        yield model, Likelihood(matrix=((1.0, 0.5),), observed=(0.3,), std=1.0).build(device)


def waits(world, mode, sampler=None, estimator=None):
    """What each step of a run but the first waited for; the first counts operations too."""
    (inner, judge), meter = world, Meter()
    model = GuardedModel(inner, "networks", meter, 8)
    reward = GuardedReward(judge, "likelihood", meter, 8)
    terms = WeightedReward((Term(name="likelihood", reward=reward),))
    problem = Problem(model, terms, sampler, estimator, model.encode([""] * 3), chunks=8)
    with Waiting() as waiting:
        told = Told(waiting)
        execute(mode, problem, Streams(0, (0, 1, 2), device=DEVICE), meter=meter, observer=told)
    return told.steps[1:]


ONCE = [{"tolist": 1}] * 2
PAIRS = [(sampler, Gradient(draws=3)) for sampler in SAMPLERS]
PAIRS += [(Renoising(), Stein(draws=3)), (MetaFlowMap(), Search(draws=3)), (DPS(), Blend())]


@pytest.mark.parametrize(("sampler", "estimator"), PAIRS, ids=lambda part: part.kind)
def test_a_step_of_steering_waits_once_whatever_draws_and_estimates(world, sampler, estimator):
    assert waits(world, Steer(steps=3), sampler, estimator) == ONCE


def test_a_step_with_the_value_in_closed_form_waits_once(world):
    assert waits(world, Steer(steps=3), None, GaussianValue()) == ONCE


@pytest.mark.parametrize("dynamics", DYNAMICS, ids=lambda part: part.kind)
def test_a_step_waits_once_whatever_takes_it_but_heun_asks_where_it_ends(world, dynamics):
    mode = Steer(steps=3, dynamics=dynamics, guidance_norm="clip")
    found = waits(world, mode, DPS(), Gradient(draws=1))
    assert found == ([{"item": 1, "tolist": 1}] * 2 if dynamics == Heun() else ONCE)


@pytest.mark.parametrize("resample", ["none", "systematic", "best", "best_per_particle"])
def test_particles_wait_once_but_to_ask_whether_to_resample(world, resample):
    mode = Steer(steps=3, dynamics=DDPM(), particles=4, resample=resample)
    found = waits(world, mode, MetaFlowMap(), Search(draws=2))
    assert found == ([{"item": 1, "tolist": 1}] * 2 if resample == "systematic" else ONCE)


def test_draws_where_they_are_needed_wait_to_find_where(world):
    found = waits(world, Steer(steps=3), MetaFlowMap(), Stein(draws="auto", budget=8))
    places, doubled = {"nonzero": 1, "tolist": 1}, {"nonzero": 1, "tolist": 3}
    assert doubled in found
    assert all(step in (places, doubled) for step in found)


def test_a_candidate_of_best_of_n_waits_once_whatever_its_steps(world):
    assert waits(world, BestOfN(n=3, flow_steps=4)) == ONCE
