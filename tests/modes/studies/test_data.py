"""What is measured against."""

import attrs
import pytest
import torch

from align.core.errors import PartError
from align.core.problem import Problem
from align.core.streams import Streams
from align.metrics.sliced_wasserstein import SlicedWasserstein
from align.metrics.statistics import ImageStatistics
from align.models.mixture import Mixture
from align.models.network import Network
from align.modes.studies.data import clean, measured
from align.networks.mlp import MLPConfig
from align.testing.distances import w1
from align.testing.probes import Plain
from align.testing.worlds import line

FOUR = Streams(0, tuple(range(4)))


def test_pictures_keep_their_classes(pictures, network):
    x1, cond = clean(pictures, None, network, Streams(0, tuple(range(6))))
    assert x1.shape == (6, 4, 4, 4)
    assert sorted(cond.prompts) == ["black"] * 3 + ["white"] * 3
    model = network.model
    for row, name in enumerate(cond.prompts):
        levels = [200 * (name == "white") + 10 * k for k in range(3)]
        sheets = torch.stack([torch.full((3, 8, 8), level / 255) for level in levels])
        sheets[..., :4] += 20 / 255
        apart = (model.autoencoder.encode(sheets) - x1[row]).abs().amax((1, 2, 3))
        assert apart.min() < 1e-5
    assert len({tuple(x.flatten().tolist()) for x in x1}) == 6  # each picture once, unmirrored
    few, named = clean(pictures, None, network, Streams(0, (4, 1)))
    assert torch.allclose(few, x1[[4, 1]], atol=1e-6)
    assert named.prompts == (cond.prompts[4], cond.prompts[1])


def test_the_model_or_another_law_draws():
    model, _ = line()
    problem = Problem(model, cond=model.encode([""] * 4))
    x1, cond = clean(None, None, problem, FOUR)
    assert torch.equal(x1, model.draw(FOUR.fold_in("data")))
    assert cond is problem.cond
    law = Mixture(weights=(1.0,), means=((50.0,),), stds=(1.0,))
    assert clean(None, law, problem, FOUR)[0].min() > 40


def test_a_model_that_draws_no_data_is_followed_along_its_flow():
    model, streams = line()[0], Streams(0, tuple(range(1000)))
    problem = Problem(Plain(model), cond=model.encode([""] * 1000))
    x1, cond = clean(None, None, problem, streams)
    assert cond is problem.cond
    assert w1(x1[:, 0], model.draw(streams)[:, 0]) < 0.15


def test_missing_or_unfit_data_raise_with_a_cure(pictures, network):
    model, _ = line()
    net = Network(net=MLPConfig(width=8), shape=(1,))
    with pytest.raises(PartError, match=r"mode.data_model: the model cannot draw data; name"):
        clean(None, net, Problem(model), FOUR)
    with pytest.raises(PartError, match="has pictures, and the model has no autoencoder"):
        clean(pictures, None, Problem(model), FOUR)
    with pytest.raises(PartError, match=r"run.samples: 7, but mode.data has 6 pictures"):
        clean(pictures, None, network, Streams(0, tuple(range(7))))
    white = attrs.evolve(network, cond=network.model.encode(["white"] * 4))
    with pytest.raises(PartError, match=r"model.prompt: .*leave it empty"):
        clean(pictures, None, white, FOUR)


def test_metrics_of_another_domain_or_several_numbers_are_refused(network):
    x1 = torch.zeros(4, 4, 4, 4)
    with pytest.raises(PartError, match=r"'sliced_wasserstein' measures vectors, not images"):
        measured(SlicedWasserstein(), network, x1, x1)
    with pytest.raises(PartError, match=r"'image_statistics' has 3 numbers, expected one"):
        measured(ImageStatistics(), network, x1, x1)
