"""Samplers, estimators, dynamics, metrics and models, called by the functions that check them."""

import attrs
import pytest
import torch

from align.core.dynamics import FlowEvaluation, GuidedFlow, Transition, take_step
from align.core.errors import ContractError, PartError
from align.core.estimate import Estimate
from align.core.estimator import estimate_value
from align.core.metric import compute_metric
from align.core.model import NoisyState, build_model
from align.core.problem import Problem
from align.core.sampler import draw_posterior
from align.core.streams import Streams
from align.dynamics.ode import ODE
from align.metrics.sliced_wasserstein import SlicedWasserstein
from align.models.mixture import Mixture
from align.samplers.exact import ExactPosterior
from align.testing.worlds import line

ROWS = 3


class Does:
    """A part whose one method is a function."""

    kind = "toy"
    needs_references = True

    def __init__(self, function):
        self.sample = self.estimate = self.step = self.compute = function


@pytest.fixture
def noisy():
    model, _ = line()
    x = torch.linspace(-1, 1, ROWS, dtype=model.dtype)[:, None].expand(-1, *model.shape).clone()
    return model, NoisyState(
        x, torch.full((ROWS,), 0.5, dtype=model.dtype), model.encode([""] * ROWS)
    )


def sampled(noisy, function):
    model, states = noisy
    streams = Streams(0, tuple(range(ROWS)))
    return draw_posterior(Does(function), model, states, draws=2, streams=streams)


def estimated(noisy, function):
    model, states = noisy
    streams = Streams(0, tuple(range(ROWS)))
    return estimate_value(Does(function), Problem(model), states, streams=streams)


def stepped(noisy, function):
    model, states = noisy
    flow = GuidedFlow(model.path, lambda x, t: FlowEvaluation(x, torch.zeros_like(x)))
    later = states.t + 0.1
    return take_step(Does(function), flow, states.x, states.t, later, Streams(0, (0, 1, 2)))


def metric(noisy, function):
    return compute_metric(Does(function), noisy[1].x, noisy[1].x + 1)


CALLS = {"sampler": sampled, "estimator": estimated, "dynamics": stepped, "metric": metric}


@pytest.mark.parametrize("kind", [SystemExit, KeyError, EOFError])
@pytest.mark.parametrize("contract", CALLS)
def test_error_is_told_as_the_parts_own(contract, kind, noisy):
    def raising(*args, **kwargs):
        raise kind("oh")

    with pytest.raises(PartError, match=f"^{contract} 'toy' raised {kind.__name__}: "):
        CALLS[contract](noisy, raising)


@pytest.mark.parametrize("returned", [None, 3, "text", [1.0], torch.zeros(1)])
@pytest.mark.parametrize("contract", CALLS)
def test_result_of_another_form_is_refused(contract, returned, noisy):
    with pytest.raises(ContractError, match=f"^{contract} 'toy' returned "):
        CALLS[contract](noisy, lambda *args, **kwargs: returned)


@pytest.mark.parametrize("contract", ["sampler", "estimator", "metric"])
def test_a_write_into_the_input_changes_nothing_of_others(contract, noisy):
    _, states = noisy
    before = states.copy()

    def writing(*args, **kwargs):
        for given in args:
            for tensor in (given.x, given.t) if isinstance(given, NoisyState) else (given,):
                if isinstance(tensor, torch.Tensor):
                    tensor.data.mul_(0)

    with pytest.raises(ContractError):
        CALLS[contract](noisy, writing)
    assert torch.equal(before.x, states.x) and torch.equal(before.t, states.t)


def test_a_dynamics_that_writes_into_its_states_is_named(noisy):
    def writing(flow, x, t, u, streams):
        after = x + 1
        x.data.mul_(0)
        return Transition(after, t)

    with pytest.raises(ContractError, match=r"^dynamics 'toy' writes into its states"):
        stepped(noisy, writing)


def test_numbers_that_are_not_finite_are_the_parts_own(noisy):
    _, states = noisy
    bad = torch.full((2, *states.x.shape), torch.nan, dtype=states.x.dtype)
    with pytest.raises(ContractError, match=r"^sampler 'toy' returned 6 numbers that are"):
        sampled(noisy, lambda *args, **kwargs: bad)
    ones = torch.ones(ROWS)
    estimate = Estimate(
        value=ones / 0, error=ones, shift=states.x, ess=ones, reward=ones, draws=ones
    )
    with pytest.raises(ContractError, match=r"^estimator 'toy': its value has numbers"):
        estimated(noisy, lambda *args, **kwargs: estimate)


def test_good_parts_pass(noisy):
    model, states = noisy
    streams = Streams(0, tuple(range(ROWS)))
    x1 = draw_posterior(ExactPosterior(), model, states, draws=2, streams=streams)
    assert x1.shape == (2, *states.x.shape)
    numbers = compute_metric(SlicedWasserstein(), states.x, states.x)
    assert all(isinstance(number, float) for number in numbers.values())
    flow = GuidedFlow(model.path, lambda x, t: FlowEvaluation(x, torch.zeros_like(x)))
    take_step(ODE(), flow, states.x, states.t, states.t + 0.1, streams)


@pytest.mark.parametrize("returned", [None, 3, "model"])
def test_model_of_another_type_is_refused(returned):
    @attrs.frozen(kw_only=True)
    class Odd(Mixture):
        def build(self, device):
            return returned

    spec = Odd(weights=(1.0,), means=((0.0,),), stds=(1.0,))
    with pytest.raises(ContractError, match=r"^model 'mixture': build returned an? "):
        build_model(spec, torch.device("cpu"))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("shape", [2]), ("dtype", "float32"), ("path", None), ("domain", "image")],
)
def test_model_of_another_form_is_refused(attribute, value):
    @attrs.frozen(kw_only=True)
    class Odd(Mixture):
        def build(self, device):
            model = super().build(device)
            object.__setattr__(model, attribute, value)
            return model

    spec = Odd(weights=(1.0,), means=((0.0,),), stds=(1.0,))
    with pytest.raises(ContractError, match=r"^model 'mixture'"):
        build_model(spec, torch.device("cpu"))
