"""Posterior draws in one call."""

import pytest
import torch

from align.core.errors import PartError
from align.core.model import NoisyState
from align.core.streams import Streams
from align.samplers.dps import DPS
from align.samplers.glass import Glass
from align.samplers.mfm import MetaFlowMap
from align.testing.distances import w1
from align.testing.probes import Plain
from align.testing.worlds import line, plane


def test_more_jumps_of_an_exact_map_change_nothing():
    model, _ = plane()
    streams = Streams(0, (4, 2))
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    noisy = NoisyState(streams.fold_in("x").normal((2,)), t, model.encode([""] * 2))
    one = MetaFlowMap(steps=1).sample(model, noisy, draws=50, streams=streams)
    assert one.shape == (50, 2, 2)
    four = MetaFlowMap(steps=4).sample(model, noisy, draws=50, streams=streams)
    assert torch.allclose(one, four, atol=1e-8)
    assert torch.equal(one[:3], MetaFlowMap().sample(model, noisy, draws=3, streams=streams))


def test_draws_follow_the_posterior():
    model, _ = line()
    x, t = torch.tensor([[0.2]]).double(), torch.tensor([0.35]).double()
    noisy, streams = NoisyState(x, t, model.encode([""])), Streams(0, (0,))
    draws = MetaFlowMap().sample(model, noisy, draws=20_000, streams=streams).flatten()
    assert w1(draws, model.draw_posterior(noisy, 20_000, streams).flatten()) < 0.03


def test_a_sampler_says_what_it_needs():
    with pytest.raises(PartError, match="glass"):
        MetaFlowMap().sample(Plain(line()[0]), None, draws=1, streams=Streams(0, (0,)))
    assert DPS().needs is None
    assert Glass().needs is None
