"""What conditions are to networks: labels apart, all other tensors as numbers."""

import pytest
import torch

from align.core.errors import ContractError
from align.core.model import ClassConditional, Condition, DescribesConditions, NoModel
from align.models.features import POOLED, features_of

THREE = ("a", "b", "c")


class Classed(ClassConditional):
    """Has classes, and no other capability."""

    classes = ("cat", "dog")

    def capability(self, kind):
        return self if isinstance(self, kind) else None


class Says(DescribesConditions, Classed):
    """Says so many numbers of each prompt."""

    def __init__(self, *shape):
        self.shape = shape

    def features(self, cond):
        return torch.ones(self.shape)


def of(model=None, **tensors):
    return features_of(model or NoModel(), Condition(THREE, tensors))


def test_no_tensors_are_no_features():
    assert of() is None
    assert of(Classed(), label=torch.tensor([0, 1, 2])) is None


def test_floats_stand_side_by_side_in_the_order_of_their_names():
    text, size = torch.randn(3, 4, 2), torch.randn(3)
    found = of(words=text, size=size.double(), on=torch.tensor([True, False, True]))
    assert found.dtype == torch.float32
    wanted = torch.cat((torch.tensor([[1.0], [0], [1]]), size[:, None], text.flatten(1)), 1)
    assert torch.equal(found, wanted)


def test_many_numbers_are_averaged_over_all_but_the_last_dimension():
    text = torch.randn(3, POOLED // 8 + 1, 2, 4)
    assert torch.allclose(of(text=text), text.mean((1, 2)), atol=1e-6)
    assert of(flat=torch.ones(3, 2 * POOLED)).shape == (3, 2 * POOLED)


@pytest.mark.parametrize("model", [None, Classed()])
def test_whole_numbers_are_told_apart(model):
    numbers = torch.tensor([[0, 1], [1, 0], [1, 40_000]])
    found = of(model, tokens=numbers)
    assert found.shape == (3, 2 * 16)
    assert torch.allclose(found[0, :16], found[1, 16:])
    assert found.abs().max() <= 1
    assert torch.cdist(found, found).fill_diagonal_(9).min() > 0.5


def test_a_label_of_a_model_without_classes_is_a_number_like_any_other():
    assert of(label=torch.tensor([0, 1, 2])).shape == (3, 16)
    assert of(Classed(), label=torch.ones(3, 2)).shape == (3, 2)  # one-hot, no number of a class


def test_a_model_that_describes_conditions_is_asked_and_checked():
    assert torch.equal(of(Says(3, 5), words=torch.zeros(3, 2)), torch.ones(3, 5))
    for shape in ((3,), (2, 5)):
        with pytest.raises(ContractError, match=r"features returned .*, expected \(3, F\)"):
            of(Says(*shape))
