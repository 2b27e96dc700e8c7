"""What the estimators and networks need of every sampler, beyond the conformance kit."""

import pytest
import torch

from align.core.model import NoisyState
from align.core.network import make_network
from align.core.streams import Streams
from align.models.network_model import NetworkModel
from align.networks.mlp import MLPConfig
from align.samplers import align_samplers
from align.samplers.dps import DPS
from align.samplers.exact import ExactPosterior
from align.samplers.gaussian import GaussianPosterior
from align.samplers.glass import Glass
from align.samplers.look_ahead import LookAhead
from align.samplers.mfm import MetaFlowMap
from align.samplers.renoise import Renoise
from align.testing.worlds import plane

SAMPLERS = (
    DPS(),
    ExactPosterior(),
    MetaFlowMap(steps=2),
    Glass(steps=4),
    Glass(steps=3, method="heun"),
    GaussianPosterior(),
    GaussianPosterior(covariance="exact"),
    Renoise(candidates=3),
    LookAhead(),
)
SAMPLES = (7, 3, 0, 2**40, 11)


def name_of(sampler):
    return "-".join(filter(None, (sampler.kind, *map(str, vars_of(sampler)))))


def vars_of(sampler):
    return [getattr(sampler, field.name) for field in sampler.__attrs_attrs__]


@pytest.fixture(params=SAMPLERS, ids=name_of)
def sampler(request):
    return request.param


def _state(model, samples=SAMPLES):
    streams = Streams(2, samples)
    x = streams.fold_in("x").normal(model.shape).to(model.dtype)
    t = streams.fold_in("t").uniform(()).to(model.dtype)
    return NoisyState(x, t, model.encode([""] * len(samples))), streams


def _network():
    nets = {
        name: make_network(MLPConfig(width=16), (2,), 0, role).requires_grad_(False)
        for name, role in {"flow": "flow", "posterior": "meta_flow_map"}.items()
    }
    for net in nets.values():
        for k, tensor in enumerate(net.state_dict().values()):
            tensor.copy_(0.3 * Streams(k, (0,)).normal(tuple(tensor.shape))[0])
    return NetworkModel(shape=(2,), domain="vector", **nets)


def test_every_sampler_is_checked():
    assert {type(sampler) for sampler in SAMPLERS} == set(align_samplers())


def test_a_row_for_each_draw_is_the_same_as_draws_for_each_row(sampler):
    """How gradients are taken: every draw on a row of its own."""
    model, _ = plane()
    noisy, streams = _state(model)
    whole = sampler.sample(model, noisy, draws=3, streams=streams)
    spread = sampler.sample(model, noisy.tile(3), draws=1, streams=streams.spread(3))
    torch.testing.assert_close(spread[0], whole.flatten(0, 1), rtol=0, atol=1e-9)


def test_single_precision_stays(sampler):
    if isinstance(sampler, ExactPosterior):
        pytest.skip("needs a closed form, which is in double precision")
    model = _network()
    noisy, streams = _state(model)
    draws = sampler.sample(model, noisy, draws=2, streams=streams)
    assert (draws.dtype, draws.device) == (torch.float32, model.device)
    assert draws.isfinite().all()
    noisy = NoisyState(noisy.x, torch.zeros_like(noisy.t), noisy.cond)
    assert sampler.sample(model, noisy, draws=2, streams=streams).isfinite().all()
