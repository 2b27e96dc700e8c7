"""Rewards that score clean states, which nobody decodes for them."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import align
from align import BestOfN, Gradient, PartError, Steer, Streams
from align.cli import verify
from align.core.reward import Term, WeightedReward
from align.rewards.python import Python
from align.testing import conformance

FILE = str(Path(__file__).parents[2] / "recipes" / "rewards" / "latent.py")
MIXTURE = {
    "kind": "mixture",
    "means": [[0.0, 0.0], [2.0, 1.0]],
    "weights": [0.5, 0.5],
    "stds": [1.0, 1.0],
}


@pytest.fixture
def near_one(tmp_path):
    """A reward that likes states near 1, whatever their shape."""
    (tmp_path / "near.py").write_text(
        "def score(x1, prompts):\n    return -(x1 - 1).square().flatten(1).mean(1)\n"
    )
    return {"kind": "python", "file": str(tmp_path / "near.py"), "domain": "latent"}


@pytest.mark.parametrize(("others", "decoded"), [([], 0), ([True], 0), ([False], 4)])
def test_nothing_is_decoded_where_no_optimised_reward_sees_data(near_one, others, decoded):
    other = {**near_one, "domain": "vector", "name": "other"}
    rewards = [near_one, *({**other, "held_out": held_out} for held_out in others)]
    result = align.sample(MIXTURE, BestOfN(n=2, flow_steps=1), samples=2, rewards=rewards)
    assert result.cost.calls.get("decoder", 0) == decoded


def test_reward_of_states_steers_by_its_gradient_without_a_decoder(near_one):
    options = {"sampler": "gaussian", "estimator": Gradient(draws=1), "samples": 2}
    result = align.sample(MIXTURE, Steer(steps=2), rewards={**near_one, "weight": 9.0}, **options)
    assert "decoder" not in result.cost.calls
    assert result.cost.reward_backward["python"] == 4


class First(align.Reward):
    """The first number of a row."""

    def score(self, data, prompts):
        return data.flatten(1)[:, 0].float()


def test_terms_of_states_and_of_data_are_added():
    terms = tuple(
        Term(name=name, reward=First(), weight=weight, latent=latent)
        for name, weight, latent in (("a", 2.0, True), ("b", 3.0, False))
    )
    x1, data = torch.tensor([[1.0], [2.0]]), torch.tensor([[10.0], [20.0]])
    reward = WeightedReward(terms)
    assert reward.total(data, ["", ""], x1).tolist() == [32.0, 64.0]
    assert reward.each(x1, data, ["", ""])["a"].tolist() == [1.0, 2.0]
    assert [WeightedReward(some).needs_data for some in (terms, terms[:1])] == [True, False]


def test_pictures_are_no_states(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    part = Python(file=FILE, domain="latent")
    with pytest.raises(PartError, match="scores clean states; leave the pictures out"):
        list(verify.lines("reward", part, [str(tmp_path / "a.png")], ""))


def states():
    return Streams(2, (0, 1, 2)).normal((3, 6, 6)).float()


test_conformance = conformance("reward", Python(file=FILE, domain="latent"), on=states)
