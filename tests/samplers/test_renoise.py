"""Draws by renoising a flow map: exact on Gaussian data, near elsewhere."""

import pytest
import torch

from align.core.errors import PartError
from align.core.model import NoisyState, ToData
from align.core.streams import Streams
from align.models.mixture import Mixture
from align.samplers.renoise import Renoise
from align.testing.distances import sliced_w2, w1
from align.testing.probes import Plain
from align.testing.worlds import line, plane

CPU = torch.device("cpu")
PATHS = ("linear", "trigonometric")


def _at(model, x, *t):
    t = torch.tensor(t, dtype=torch.float64)
    x = torch.tensor(x, dtype=torch.float64).expand(len(t), *model.shape)
    return NoisyState(x, t, model.encode([""] * len(t)))


def _gaussian(path, std):
    return Mixture(weights=(1,), means=((0.5, -1.0),), stds=(std,), path=path).build(CPU)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("candidates", [1, 5])
def test_proposal_is_the_posterior_of_gaussian_data(path, candidates):
    """Every draw is the posterior's mean and deviation, with one of the noises in between."""
    model, streams = _gaussian(path, 0.7), Streams(0, (0, 1, 2, 3, 4))
    noisy = _at(model, [0.4, 1.1], 0.0, 1e-4, 0.3, 0.8, 0.99)
    sampler = Renoise(candidates=candidates, data_std=0.7)
    draws = sampler.sample(model, noisy, draws=3, streams=streams)
    law = model.posterior(noisy)
    noise = streams.fold_in("posterior").normal((candidates, 2), draws=3)
    every = law.means[:, 0, None] + law.variances[:, 0, None, None].sqrt() * noise
    assert every.shape == (3, 5, candidates, 2)
    gap = (every - draws[:, :, None]).abs().amax(-1).amin(-1)
    assert float(gap.max()) < 1e-7


def test_all_candidates_of_gaussian_data_are_equally_likely():
    model, count = _gaussian("linear", 0.7), 8000
    streams = Streams(0, tuple(range(count)))
    noisy = _at(model, [0.4, 1.1], *[0.4] * count)
    draws = Renoise(candidates=4, data_std=0.7).sample(model, noisy, draws=1, streams=streams)
    noise = streams.fold_in("posterior").normal((4, 2))
    law = model.posterior(noisy)
    every = law.means[:, 0, None] + law.variances[:, 0, None, None].sqrt() * noise
    chosen = (every - draws[0][:, None]).abs().amax(-1).argmin(-1)
    shares = torch.bincount(chosen, minlength=4) / count
    assert torch.allclose(shares, torch.full((4,), 0.25), atol=0.02)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("std", [0.5, 1.6])
def test_importance_weights_correct_a_wrong_proposal(path, std):
    """Data of another deviation: wrong with one candidate, right with many."""
    model, count = _gaussian(path, 1.0), 1500
    noisy = _at(model, [1.0, 0.6], *[0.45] * count)
    streams = Streams(0, tuple(range(count)))
    exact = model.draw_posterior(noisy.rows(slice(0, 1)), 40_000, streams.rows(slice(0, 1)))[:, 0]
    one, many = (
        Renoise(candidates=k, data_std=std).sample(model, noisy, draws=1, streams=streams)[0]
        for k in (1, 32)
    )
    for d in range(2):
        floor = w1(exact[:count, d], exact[count:, d])
        assert w1(many[:, d], exact[:, d]) < 0.025 + floor
    assert max(w1(one[:, d], exact[:, d]) for d in range(2)) > 0.1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 0.8])
def test_draws_of_three_components_are_near_the_posterior(path, t):
    """In deviations of the posterior; two sets of exact draws are .01 to .04 apart."""
    model, count = line(path)[0], 2000
    noisy = _at(model, [0.6 * t - 0.2], *[t] * count)
    streams = Streams(0, tuple(range(count)))
    exact = model.draw_posterior(noisy.rows(slice(0, 1)), 40_000, Streams(3, (0,)))[:, 0, 0]
    for candidates, most in ((4, 0.09), (16, 0.05)):
        draws = Renoise(candidates=candidates).sample(model, noisy, draws=1, streams=streams)
        assert w1(draws[0, :, 0], exact) / float(exact.std()) < most


def test_draws_in_the_plane_are_near_the_posterior():
    """The triangular map is not the flow's: that it carries the laws is enough."""
    model, count = plane()[0], 1000
    noisy = _at(model, [0.5, 0.3], *[0.5] * count)
    streams = Streams(0, tuple(range(count)))
    exact = model.draw_posterior(noisy.rows(slice(0, 1)), 20_000, Streams(3, (0,)))[:, 0]
    one, many = (
        sliced_w2(Renoise(candidates=k).sample(model, noisy, draws=1, streams=streams)[0], exact)
        for k in (1, 16)
    )
    assert one > 0.4
    assert many < 0.12  # two sets of exact draws: 0.06


class ToDataAlone(Plain, ToData):
    """A flow map that lends its jumps to data and no others."""

    def to_data(self, x, s, cond):
        return self.inner.jump(x, s, torch.ones_like(s), cond)


def test_jumps_to_data_alone_are_enough_and_their_weights_are_said_to_be_a_heuristic():
    model, streams = line()[0], Streams(0, (0, 1, 2))
    noisy = _at(model, [0.4], 0.0, 0.5, 0.9)
    by_map, by_jumps = (
        Renoise().sample(part, noisy, draws=2, streams=streams)
        for part in (model, ToDataAlone(model))
    )
    assert torch.equal(by_map, by_jumps)
    assert Renoise().notes(model) == Renoise(candidates=1).notes(ToDataAlone(model)) == ()
    (note,) = Renoise().notes(ToDataAlone(model))
    assert "the weights by which 'renoise' chooses its draws are a heuristic" in note


def test_a_model_without_jumps_to_data_is_refused():
    with pytest.raises(PartError, match="jumps to data; use 'glass'"):
        Renoise().sample(Plain(line()[0]), None, draws=1, streams=Streams(0, (0,)))
    for wrong in ({"candidates": 0}, {"data_std": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Renoise(**wrong)
