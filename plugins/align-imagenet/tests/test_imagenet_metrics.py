"""The metrics `frechet` and `diversity`."""

import pytest
import torch
from align_imagenet import Diversity, Frechet
from align_imagenet.features import features
from align_imagenet.metrics import mean_cosine_distance

from align import ContractError, PartError

CPU = torch.device("cpu")


def pictures(count, seed=0, side=64, channels=3):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


@pytest.mark.parametrize(("count", "others"), [(1, 5), (5, 1)])
def test_a_gaussian_needs_two_pictures(count, others):
    with pytest.raises(PartError, match=rf"at least 2 .* got {count} and {others}"):
        Frechet().compute(pictures(count), pictures(others))


def test_frechet_grows_with_noise_and_vanishes_on_equal_sets():
    references = pictures(12)
    noise = torch.randn(references.shape, generator=torch.Generator().manual_seed(5))
    near, far = (
        Frechet().compute((references + scale * noise).clamp(0, 1), references)["frechet_mobilenet"]
        for scale in (0.02, 0.2)
    )
    assert Frechet().compute(references, references)["frechet_mobilenet"] < 1e-6
    assert 0 < near < far


def test_frechet_says_what_it_misses():
    with pytest.raises(PartError, match="was given none"):
        Frechet().compute(pictures(3), None)
    with pytest.raises(PartError, match=r"one size, got \(64, 64\) and \(32, 32\)"):
        Frechet().compute(pictures(3), pictures(3, side=32))


def test_diversity():
    assert mean_cosine_distance(torch.eye(5)) == pytest.approx(1)
    assert mean_cosine_distance(torch.ones(4, 7)) == pytest.approx(0, abs=1e-12)
    rows = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    unit = rows / rows.norm(dim=1, keepdim=True)
    pairs = [1 - (unit[i] @ unit[j]).item() for i in range(6) for j in range(i)]
    assert mean_cosine_distance(rows) == pytest.approx(sum(pairs) / len(pairs))
    one = pictures(1)
    alike = Diversity().compute(one.expand(4, -1, -1, -1), None)["diversity_mobilenet"]
    different = Diversity().compute(pictures(4), None)["diversity_mobilenet"]
    assert alike == pytest.approx(0, abs=1e-5)
    assert 0.01 < different < 1
    with pytest.raises(PartError, match="at least 2 samples, got 1"):
        Diversity().compute(one, None)


def test_features_take_a_row_at_a_time_whatever_the_chunk():
    data = pictures(70, side=32)
    rows = features(data, CPU)
    assert rows.shape == (70, 1280)
    assert not rows.requires_grad
    assert 0 <= rows.min() <= rows.max() <= 6
    torch.testing.assert_close(features(data[66:67], CPU), rows[66:67], atol=1e-4, rtol=1e-4)


def test_features_clamp_and_take_grey_and_small_pictures():
    grey = pictures(2, channels=1, side=28)
    colour = grey.repeat(1, 3, 1, 1)
    torch.testing.assert_close(features(grey, CPU), features(colour, CPU))
    wild = colour * 4 - 1
    torch.testing.assert_close(features(wild, CPU), features(wild.clamp(0, 1), CPU))
    with pytest.raises(ContractError, match="pictures must be"):
        features(torch.zeros(2, 5), CPU)
