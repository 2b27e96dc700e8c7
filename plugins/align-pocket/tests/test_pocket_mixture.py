"""The reward for several animals."""

import pytest
import torch
from align_pocket import SilhouetteClass, SilhouetteMixture

from align import ConfigErrors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_shares_weigh_the_probabilities_of_their_animals(pictures):
    mixture = SilhouetteMixture(shares={"cat": 3.0, "zebra": 1.0}).build(CPU)
    each = [
        SilhouetteClass(label=name, scale="log_probability").build(CPU).score(pictures, [""] * 6)
        for name in ("cat", "zebra")
    ]
    expected = (0.75 * each[0].exp() + 0.25 * each[1].exp()).log()
    assert torch.allclose(mixture.score(pictures, [""] * 6), expected, atol=1e-5)


def test_one_animal_is_its_log_probability(pictures):
    alone = SilhouetteMixture(shares={"dog": 7.0}).build(CPU).score(pictures, [""] * 6)
    score = SilhouetteClass(label="dog", scale="log_probability").build(CPU)
    assert torch.allclose(alone, score.score(pictures, [""] * 6), atol=1e-5)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"zebr": 1.0}, "no such animal; did you mean 'zebra'"),
        ({"cat": 0.0}, "a share must be greater than 0, got 0"),
    ],
)
def test_shares_of_no_animal_or_of_nothing_are_refused(shares, message):
    with pytest.raises(ConfigErrors, match=message):
        SilhouetteMixture(shares=shares)


def test_no_shares_at_all_are_refused():
    with pytest.raises(ValueError, match="needs at least one animal"):
        SilhouetteMixture(shares={})
