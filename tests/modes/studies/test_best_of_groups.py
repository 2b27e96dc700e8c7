"""The best of N from one pool of samples."""

import math

import attrs
import pytest
import torch

from align.core.errors import PartError
from align.core.problem import Problem
from align.core.reward import Term, WeightedReward
from align.modes.studies.best_of_groups import BestOfGroups, mean_of_chosen
from align.testing.worlds import plane

MODE = BestOfGroups(sizes=(1, 2, 5), flow_steps=3)


def problem():
    """The plane with its measurement; the same reward with the sign turned is held out."""
    model, reward = plane()
    (term,) = reward.terms
    other = Term(name="other", reward=term.reward, weight=1.0, held_out=True)
    return Problem(model, WeightedReward((term, other)))


def test_groups_do_not_overlap_and_what_is_left_over_counts_nowhere():
    r = torch.tensor([1.0, 4.0, 3.0, 2.0, 9.0])
    other = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0])
    assert mean_of_chosen(r, r, 2) == (3.5, pytest.approx(0.5))
    assert mean_of_chosen(r, other, 2) == (25.0, pytest.approx(5.0))
    assert mean_of_chosen(r, r, 5) == (9.0, None)
    mean, error = mean_of_chosen(r, r, 1)
    assert (mean, error) == (pytest.approx(3.8), pytest.approx(float(r.std()) / math.sqrt(5)))


def test_larger_groups_gain_more_and_cost_their_samples(studied):
    state, found = studied(MODE, problem(), 40)
    panels = {panel: [p for p in found.points if p.panel == panel] for panel in ("r", "other")}
    assert [point.calls for point in panels["r"]] == [3, 6, 15]
    values = [point.value for point in panels["r"]]
    assert values == sorted(values)
    assert [point.error is None for point in panels["r"]] == [False] * 3
    assert [p.value for p in panels["other"]] == pytest.approx(values)  # the same reward
    assert len(state.scores["r"]) == 40


def test_a_second_arm_with_the_same_pool_makes_no_samples(studied):
    state, found = studied(MODE, problem(), 10)
    assert studied(MODE, problem(), 10, last=state)[1] == found


def test_a_group_larger_than_the_pool_is_refused(studied):
    with pytest.raises(PartError, match=r"run.samples: 4, and a group of mode.sizes has 5"):
        studied(attrs.evolve(MODE, sizes=(5,)), problem(), 4)
