"""The labels of a data set by the model's classes, and the order in which rows are seen."""

import attrs
import pytest
import torch

from align.core.dataset import Dataset
from align.core.errors import PartError
from align.core.streams import Streams
from align.training.data import batches, labels_of, loaded, order


@attrs.frozen(eq=False)
class Numbers(Dataset):
    """Row k is (k, k); reading row `bad` fails."""

    labels: torch.Tensor
    classes: tuple[str, ...] = ()
    bad: int = -1
    shape = (2,)

    def rows(self, numbers):
        if self.bad in numbers:
            raise PartError(f"data: {self.row_name(self.bad)} is lost")
        return torch.tensor(numbers)[:, None].float().expand(-1, 2)


def numbers(*labels, **options):
    return Numbers(torch.tensor(labels), **options)


def test_labels_without_classes_of_a_model_stay():
    assert labels_of(numbers(7, 3), "set", ()).tolist() == [7, 3]
    assert labels_of(numbers(1, 0, classes=("cat", "dog")), "set", ()).tolist() == [1, 0]


def test_labels_with_names_follow_the_model_s_classes():
    data = numbers(0, 1, 1, classes=("Big_cat", "dog"))
    assert labels_of(data, "set", ("Dog", "big cat")).tolist() == [1, 0, 0]
    with pytest.raises(PartError) as caught:
        labels_of(data, "set", ("dog", "bird"))
    text = "data: the classes of 'set' differ from the model's in: big cat, bird"
    assert str(caught.value) == text


def test_labels_follow_a_model_that_knows_what_the_names_mean():
    data = numbers(0, 1, 1, classes=("7", "3"))
    found = labels_of(data, "set", ("a", "b"), lambda names: [int(name) for name in names])
    assert found.tolist() == [7, 3, 3]
    odd = numbers(0, classes=("x",))
    with pytest.raises(PartError, match=r"data: classes of 'set': invalid literal"):
        labels_of(odd, "set", ("a", "b"), lambda names: [int(name) for name in names])


@pytest.mark.parametrize("label", [2, -1])
def test_labels_without_names_count_through_the_model_s_classes(label):
    assert labels_of(numbers(1, 0), "set", ("cat", "dog")).tolist() == [1, 0]
    with pytest.raises(PartError) as caught:
        labels_of(numbers(0, label), "set", ("cat", "dog"))
    assert str(caught.value) == (
        f"data: class {label} of row 1 is out of range: the model's 2 classes are counted from 0"
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_of_any_data_set_are_read_in_turn(workers):
    data = numbers(*[0] * 5)
    assert loaded(data, workers)[:, 0].tolist() == [0, 1, 2, 3, 4]
    found = list(batches(data, [[3, 1], [0]], workers))
    assert [batch[:, 1].tolist() for batch in found] == [[3, 1], [0]]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_row_that_cannot_be_read_is_one_error(workers):
    with pytest.raises(PartError, match=r"^data: row 2 is lost$"):
        list(batches(numbers(0, 0, 0, bad=2), [[0], [1, 2]], workers))


def places(first, count):
    return torch.arange(first, first + count)


def test_order_visits_every_row_once_an_epoch():
    streams = Streams(3, (0, 1)).fold_in("order")
    seen = torch.cat([order(streams, 10, places(4 * step, 4)) for step in range(10)])
    epochs = seen.reshape(4, 10)
    assert (epochs.sort(1).values == torch.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_order_depends_on_the_seed_and_the_place_alone():
    streams = Streams(3, (0, 1))
    whole = order(streams, 10, places(0, 40))
    assert torch.equal(order(streams, 10, places(28, 4)), whole[28:32])
    assert torch.equal(order(streams, 10, places(20, 20)), whole[20:40])
    assert torch.equal(order(Streams(3, (9,)), 10, places(0, 40)), whole)
    assert not torch.equal(order(Streams(4, (0, 1)), 10, places(0, 40)), whole)
    assert not torch.equal(order(streams.fold_in("other"), 10, places(0, 40)), whole)


def test_every_order_is_as_likely():
    """Each row stands at each place of an epoch in about the same number of epochs."""
    for rows in (2, 3, 7):
        epochs = order(Streams(0, (0,)), rows, places(0, 3000 * rows)).reshape(3000, rows)
        counts = torch.stack([(epochs == row).sum(0) for row in range(rows)]).float()
        expected = 3000 / rows
        # Within 4.5 deviations of a binomial's.
        assert (counts - expected).abs().max() < 4.5 * (expected * (1 - 1 / rows)) ** 0.5
    epochs = epochs.tolist()
    # Of the 5040 orders of seven rows, 3000 draws would hit 2261.
    assert len(set(map(tuple, epochs))) > 2000


def test_order_of_very_many_rows_is_found_at_once():
    rows = 10**9 + 7
    found = order(Streams(0, (0,)), rows, places(3 * rows - 500, 1000))
    assert found.min() >= 0
    assert found.max() < rows
    assert len(found[:500].unique()) == len(found[500:].unique()) == 500
    assert abs(float(found.double().mean()) / rows - 0.5) < 0.05
