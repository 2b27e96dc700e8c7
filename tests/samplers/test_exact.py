"""Draws from a posterior that is known."""

import pytest
import torch

from align.core.errors import PartError
from align.core.model import NoisyState
from align.core.streams import Streams
from align.engine.guard import GuardedModel
from align.engine.meter import Meter
from align.models.network_model import NetworkModel
from align.samplers.exact import ExactPosterior
from align.testing.distances import w1
from align.testing.worlds import line, plane


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
@pytest.mark.parametrize("t", [0.0, 0.35, 0.9])
def test_draws_have_the_posterior_s_distribution_function(kind, t):
    model, _ = line(kind)
    noisy = NoisyState(
        torch.tensor([[0.2]]).double(), torch.tensor([t]).double(), model.encode([""])
    )
    draws = ExactPosterior().sample(model, noisy, draws=20_000, streams=Streams(0, (0,))).flatten()
    law = model.posterior(noisy)
    ordered = draws.sort().values
    reach = (ordered[:, None] - law.means[0, :, 0]) / law.variances[0].sqrt()
    below = (law.log_weights[0].exp() * torch.special.ndtr(reach)).sum(-1)
    steps = torch.arange(1, 20_001) / 20_000
    # Kolmogorov's statistic: above 1.95 / √N with probability 0.001.
    assert float((below - steps).abs().max()) < 1.95 / 20_000**0.5


def test_draws_are_consistent_with_data_that_were_made_noisy():
    model, _ = plane()
    count = 8000
    streams = Streams(4, tuple(range(count)))
    x1, t = model.draw(streams), torch.full((count,), 0.4, dtype=torch.float64)
    x = model.path.interpolate(streams.fold_in("noise").normal((2,)), x1, t)
    noisy = NoisyState(x, t, model.encode([""] * count))
    again = ExactPosterior().sample(model, noisy, draws=1, streams=streams)[0]
    for direction in torch.tensor([[1, 0], [0.6, 0.8]], dtype=torch.float64):
        assert w1(x1 @ direction, again @ direction) < 0.12  # two sets of data: 0.01 to 0.06
    alike = [(each - each.mean(0)).T @ (x - x.mean(0)) / count for each in (x1, again)]
    assert torch.allclose(*alike, rtol=0.05, atol=0.05)


def test_exact_draws_cost_no_network_call_and_carry_no_gradient():
    model, meter = line()[0], Meter()
    x = torch.tensor([[0.2]], dtype=torch.float64, requires_grad=True)
    noisy = NoisyState(x, torch.tensor([0.4]).double(), model.encode([""]))
    guarded = GuardedModel(model, "mixture", meter, 8)
    draws = ExactPosterior().sample(guarded, noisy, draws=3, streams=Streams(0, (0,)))
    assert draws.shape == (3, 1, 1)
    assert not draws.requires_grad
    assert not meter.calls


def test_a_network_is_refused_by_the_exact_sampler():
    with pytest.raises(PartError, match="exact posterior, like 'mixture'"):
        ExactPosterior().sample(NetworkModel(shape=(2,)), None, draws=1, streams=Streams(0, (0,)))
