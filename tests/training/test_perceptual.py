"""Distances in features: what they are, and what they are blind to."""

import pytest
import torch

from align.core.errors import PartError
from align.core.streams import Streams
from align.training.perceptual import Perceptual, perceptual_distance

PICTURES = Streams(0, (0, 1, 2)).uniform((3, 6, 6))
OTHERS = Streams(1, (0, 1, 2)).uniform((3, 6, 6))


def maps(pictures):
    return [pictures + 1, pictures[..., ::2, ::2].square() + 0.5]


def test_distance_is_the_mean_over_maps_and_places():
    expected = torch.zeros(3, dtype=torch.float64)
    for first, second in zip(maps(PICTURES), maps(OTHERS), strict=True):
        f, g = (features / features.norm(dim=1, keepdim=True) for features in (first, second))
        expected += (f - g).norm(dim=1).square().mean((1, 2)) / 2
    assert torch.allclose(perceptual_distance(maps, PICTURES, OTHERS).double(), expected, rtol=1e-5)
    assert not perceptual_distance(maps, PICTURES, PICTURES).any()


def test_distance_is_blind_to_the_length_of_features():
    distance = perceptual_distance(lambda x: [x], PICTURES, OTHERS)
    assert float(distance.min()) > 0.01
    scaled = perceptual_distance(lambda x: [x], 3 * PICTURES, OTHERS / 2)
    assert torch.allclose(scaled, distance, rtol=1e-5)


def test_gradient_goes_to_the_pictures_alone():
    pictures, references = PICTURES.clone().requires_grad_(), OTHERS.clone().requires_grad_()
    perceptual_distance(maps, pictures, references).sum().backward()
    assert pictures.grad.abs().amax((1, 2, 3)).min() > 0
    assert references.grad is None


@pytest.mark.parametrize("name", ["align.training.perceptual:nothing", "align.no_such_module:maps"])
def test_features_that_are_not_installed_are_a_part_error(name):
    with pytest.raises(PartError, match=f"perceptual.features: no '{name}' is installed"):
        Perceptual(features=name).load(torch.device("cpu"))


@pytest.mark.parametrize("name", ["maps", "align.maps", "align:", ":maps", "a b:maps"])
def test_features_that_name_no_function_are_refused(name):
    with pytest.raises(ValueError, match="'features' must be 'module:function'"):
        Perceptual(features=name)
