"""States of metrics that are merged as they come."""

import pytest
import torch

from align.core.metric import MergedStates, named_apart, update_metric
from align.metrics.frechet import FrechetThumbnails
from align.metrics.sliced_wasserstein import SlicedWasserstein


@pytest.mark.parametrize("count", [1, 2, 7, 8, 13])
def test_merged_states_keep_the_order_of_the_samples(count):
    metric = SlicedWasserstein()
    states = MergedStates(metric)
    for number in range(count):
        states.add(update_metric(metric, torch.full((2, 3), float(number))))
    assert states.state()["vectors"][:, 0].tolist() == [n for n in range(count) for _ in range(2)]


def test_merged_sums_are_those_of_all_at_once():
    metric, pictures = (
        FrechetThumbnails(),
        torch.rand(45, 3, 9, 9, generator=torch.Generator().manual_seed(0)),
    )
    states = MergedStates(metric)
    for part in pictures.split(4):
        states.add(update_metric(metric, part))
    merged, whole = states.state(), update_metric(metric, pictures)
    assert merged["count"] == 45
    torch.testing.assert_close(merged["mean"], whole["mean"], rtol=1e-12, atol=1e-12)
    squares = [kept["root"].T @ kept["root"] for kept in (merged, whole)]
    torch.testing.assert_close(*squares, rtol=1e-9, atol=1e-12)


def test_numbers_of_one_name_are_the_same_ones_in_every_arm():
    first, second = [{}, {"fid": 1.0}], [{"fid": 2.0}, {"fid": 3.0}]
    assert named_apart([first, second]) == [{"fid_2": 1.0}, {"fid": 2.0, "fid_2": 3.0}]
    assert named_apart([[{"edges": 1.0}]], ["edges"]) == [{"edges_2": 1.0}]
    assert named_apart([[], []]) == [{}, {}]
