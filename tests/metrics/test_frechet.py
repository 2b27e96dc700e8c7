"""The Fréchet distance against closed forms, and that of thumbnails."""

import pytest
import torch

from align.core.errors import PartError
from align.metrics.frechet import FrechetThumbnails, Gaussian, frechet_distance


def normal(count, size, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def white(count, size, seed):
    """Rows (count, size) whose mean is exactly 0 and whose covariance is exactly 1."""
    rows = normal(count, size, seed)
    rows = rows - rows.mean(0)
    return torch.linalg.qr(rows).Q * (count - 1) ** 0.5


def covariance(rows):
    return (rows - rows.mean(0)).T @ (rows - rows.mean(0)) / (len(rows) - 1)


def square_root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def test_the_distance_of_known_gaussians():
    scale_a, scale_b = torch.tensor([1.0, 2.0, 3.0, 0.5]), torch.tensor([2.0, 2.0, 1.0, 0.0])
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5])
    a, b = white(50, 4, 0) * scale_a, white(30, 4, 1) * scale_b + shift
    expected = (shift.square().sum() + (scale_a - scale_b).square().sum()).item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("count", "others"), [(40, 60), (5, 60), (5, 4), (2, 2)])
def test_the_trace_is_that_of_the_matrix_square_root(count, others):
    mixing = normal(8, 8, 7)
    a, b = normal(count, 8, 1) @ mixing, normal(others, 8, 2) + 1
    root = square_root(covariance(a))
    shared = square_root(root @ covariance(b) @ root).trace()
    expected = (
        (a.mean(0) - b.mean(0)).square().sum()
        + covariance(a).trace()
        + covariance(b).trace()
        - 2 * shared
    )
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-5)


def test_a_set_is_at_no_distance_from_itself_in_any_order():
    rows = normal(20, 300, 0).float() * 5
    assert frechet_distance(rows, rows.flip(0)) < 1e-9


@pytest.mark.parametrize(("count", "others"), [(1, 5), (5, 1), (0, 5)])
def test_a_gaussian_needs_two_rows(count, others):
    with pytest.raises(PartError, match=rf"at least 2 .* got {count} and {others}"):
        frechet_distance(normal(count, 3, 0), normal(others, 3, 0))


def test_thumbnails_see_layout_and_colour_alone():
    references = normal(12, 3 * 64, 3).unflatten(1, (3, 8, 8)).sigmoid().float()
    large = references.repeat_interleave(4, 2).repeat_interleave(4, 3)
    measure = FrechetThumbnails().compute
    assert measure(large, references)["frechet_thumbnails"] < 1e-9
    # A chequered pattern finer than a thumbnail's pixel goes unseen, a shift of colour does not.
    fine = 1 - 2.0 * (torch.arange(32)[:, None] + torch.arange(32)).remainder(2)
    assert measure(large + 0.1 * fine, references)["frechet_thumbnails"] < 1e-9
    shift = torch.tensor([0.1, 0.0, -0.2])[:, None, None]
    wanted = 64 * (0.1**2 + 0.2**2)
    assert measure(large + shift, references)["frechet_thumbnails"] == pytest.approx(wanted)
    grey = references[:, :1]
    assert measure(grey, grey.expand(-1, 3, -1, -1))["frechet_thumbnails"] < 1e-9


def test_thumbnails_need_references():
    with pytest.raises(PartError, match="compares with references; got none"):
        FrechetThumbnails().compute(torch.rand(3, 3, 16, 16), None)


@pytest.mark.parametrize("count", [5, 60])
def test_gaussian_of_parts_is_that_of_all_rows_at_once(count):
    """Fewer rows than numbers, where covariances have no full rank, and more."""
    rows, others = (normal(count, 12, seed) + seed for seed in (3, 4))
    rows = rows * torch.logspace(-3, 1, 12)
    parts = [Gaussian.of(piece) for piece in rows.split(4)]
    whole, joined = Gaussian.of(rows), Gaussian.joined(parts)
    assert joined.count == count
    assert torch.allclose(joined.mean, whole.mean, rtol=1e-12)
    assert torch.allclose(joined.root.T @ joined.root, whole.root.T @ whole.root, atol=1e-12)
    assert len(joined.root) <= 12
    distance = whole.distance(Gaussian.of(others))
    assert joined.distance(Gaussian.of(others)) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(rows, others) == distance
