"""Metrics on the features of a network: closed forms, parts, references and their cache."""

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

from align.core.errors import ContractError, PartError
from align.core.metric import finish_metric, merge_metric, update_metric
from align.core.option import ConfigErrors
from align.core.streams import Streams
from align.io.images import save_picture, to_bytes
from align.metrics.classes import ClassHistogram, InceptionScore
from align.metrics.features import _BUILT, _LAST, _REFERENCES, extracted
from align.metrics.fid import FID, SpatialFID
from align.metrics.frechet import frechet_distance
from align.metrics.mmd import KID, MMD, gaussian, polynomial, squared_mmd
from align.metrics.neighbours import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    precision_recall,
)
from align.metrics.variety import Vendi, root_of, vendi_score
from align.testing.fake_device import fake_device
from tests.metrics.networks import Small, calls, pictures


def normal(count, size, seed=0):
    return Streams(seed, tuple(range(count))).fold_in("rows").normal((size,)).double()


ALL = (
    FID(features=Small()),
    SpatialFID(features=Small()),
    KID(features=Small()),
    KID(features=Small(), subsets=5, subset_size=7),
    MMD(features=Small()),
    PrecisionRecall(features=Small()),
    DensityCoverage(features=Small()),
    InceptionScore(features=Small()),
    InceptionScore(features=Small(), splits=5),
    ClassHistogram(features=Small()),
    Vendi(features=Small()),
)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.kind)
def test_parts_merged_are_all_at_once(metric):
    samples, references = pictures(23), update_metric(metric, pictures(17, seed=1))
    parts = [update_metric(metric, part) for part in samples.split((9, 1, 6, 7))]
    merged = finish_metric(metric, merge_metric(metric, parts), references)
    whole = finish_metric(metric, update_metric(metric, samples), references)
    assert merged == pytest.approx(whole, rel=1e-9, abs=1e-9)


def test_frechet_distance_of_gaussians_is_the_closed_form():
    rows = normal(400, 3)
    root = torch.linalg.cholesky(torch.linalg.inv(rows.T.cov()))
    white = (rows - rows.mean(0)) @ root  # of mean 0 and covariance 1
    scales, shift = torch.tensor([2.0, 3.0, 0.5]).double(), torch.tensor([1.0, -1.0, 2.0])
    distance = frechet_distance(white * scales + shift, white)
    assert distance == pytest.approx(float(shift.square().sum() + (scales - 1).square().sum()))


def test_fid_of_statistics_is_that_of_the_pictures(tmp_path):
    samples, others = pictures(30), pictures(40, seed=1)
    for metric, names, kind in (
        (FID, ("mu", "sigma"), "pooled"),
        (SpatialFID, ("mu_s", "sigma_s"), "spatial"),
    ):
        rows = getattr(extracted(Small(), others), kind).double().numpy()
        path = tmp_path / f"{kind}.npz"
        np.savez(path, **dict(zip(names, (rows.mean(0), np.cov(rows, rowvar=False)), strict=True)))
        direct = metric(features=Small()).compute(samples, others)
        told = metric(features=Small(), reference=str(path)).compute(samples, None)
        assert told == pytest.approx(direct, rel=1e-6)


def test_statistics_beside_pictures_are_of_inception_and_not_of_others(tmp_path, cache):
    samples, others = pictures(20), pictures(30, seed=1)
    np.savez(tmp_path / "adm.npz", arr_0=to_bytes(others), mu=np.zeros(48), sigma=np.eye(48))
    told = FID(features=Small(), reference=str(tmp_path / "adm.npz")).compute(samples, None)
    assert told == pytest.approx(FID(features=Small()).compute(samples, others), rel=1e-6)


def test_discrepancies_are_means_over_pairs():
    x, y = normal(5, 2), normal(4, 2, seed=1) + 1
    for kernel, one in (
        (polynomial, lambda a, b: (float(a @ b) / 2 + 1) ** 3),
        (gaussian([0.7]), lambda a, b: float((-(a - b).square().sum() / (2 * 0.49)).exp())),
    ):
        within = [
            sum(one(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j)
            / (len(z) * (len(z) - 1))
            for z in (x, y)
        ]
        between = sum(one(a, b) for a in x for b in y) / (len(x) * len(y))
        assert squared_mmd(x, y, kernel) == pytest.approx(sum(within) - 2 * between)


def test_discrepancies_of_one_law_are_about_zero_and_grow_with_a_shift():
    x, same = normal(300, 2), normal(300, 2, seed=1)
    values = [MMD().compute(x, other)["mmd_squared"] for other in (same, same + 0.5, same + 2)]
    assert abs(values[0]) < 0.01 < 2 * values[1] < values[2]
    kid = KID(features=Small(), subsets=20, subset_size=50)
    one, far = pictures(100), (0.5 * pictures(100, seed=1)) ** 2
    near = kid.compute(one, pictures(100, seed=2))["kid_small"]
    assert abs(near) < 0.01 < kid.compute(one, far)["kid_small"]
    assert kid.compute(one, far) == kid.compute(one, far)
    assert attrs.evolve(kid, seed=1).compute(one, far) != kid.compute(one, far)


def test_neighbours_of_a_set_among_itself_and_far_away():
    rows = normal(40, 3)
    assert precision_recall(rows, rows, 3) == (1.0, 1.0)
    assert density_coverage(rows, rows, 5)[1] == 1.0
    assert precision_recall(rows + 100, rows, 3) == (0.0, 0.0)
    assert density_coverage(rows + 100, rows, 5) == (0.0, 0.0)
    # One point in the middle lies in every ball of the others, and covers them all.
    corners = torch.eye(4).double()
    middle = corners.mean(0, keepdim=True)
    assert density_coverage(middle, corners, 2) == (4 / 2, 1.0)


def test_vendi_score_counts_orthogonal_features():
    assert vendi_score(root_of(torch.eye(5))) == pytest.approx(5)
    assert vendi_score(root_of(torch.ones(7, 3))) == pytest.approx(1)
    rows = torch.eye(3).repeat_interleave(torch.tensor([1, 1, 2]), 0)
    expected = torch.special.entr(torch.tensor([0.25, 0.25, 0.5])).sum().exp()
    assert vendi_score(root_of(rows)) == pytest.approx(float(expected))


def coloured(*counts):
    """So many pictures of each of three colours, of which the network is all but sure."""
    return (
        torch.eye(3)
        .repeat_interleave(torch.tensor(counts), 0)[:, :, None, None]
        .expand(-1, -1, 4, 4)
    )


def test_inception_score_of_parts_is_the_mean_of_theirs():
    data, small = pictures(11), Small()
    scores = [
        InceptionScore(features=small).compute(data[k::3], None)["inception_score_small"]
        for k in range(3)
    ]
    assert InceptionScore(features=small, splits=3).compute(data, None) == pytest.approx(
        {"inception_score_small": np.mean(scores), "inception_score_small_std": np.std(scores)}
    )
    with pytest.raises(PartError, match="11 pictures cannot be cut into 12 parts"):
        InceptionScore(features=small, splits=12).compute(data, None)


def test_classes_are_counted():
    data = coloured(3, 1, 0)
    score = InceptionScore(features=Small()).compute(data, None)["inception_score_small"]
    assert score == pytest.approx(4 / 3**0.75, rel=1e-3)  # e to the entropy of (3/4, 1/4)
    counted = ClassHistogram(features=Small()).compute(data, None)
    assert counted["classes_small"] == 2
    assert counted["effective_classes_small"] == pytest.approx(4 / 3**0.75)
    aimed = ClassHistogram(features=Small(), target={"dog": 2.0, "2": 2.0}).compute(data, None)
    assert aimed == pytest.approx(
        {
            "class_l2_small": (0.75**2 + 0.25**2 + 0.5**2) ** 0.5,
            "share of dog": 0.25,
            "share of 2": 0,
        }
    )


def test_options_are_checked():
    with pytest.raises(
        ConfigErrors, match=r"target: horse: 'small' has no class of that name; known"
    ):
        ClassHistogram(features=Small(), target={"horse": 1.0})
    with pytest.raises(ConfigErrors, match="cat: a share must be greater than 0"):
        ClassHistogram(features=Small(), target={"cat": 0.0})
    with pytest.raises(PartError, match="there are classes 0 to 2, not 7"):
        ClassHistogram(features=Small(), target={"7": 1.0}).compute(pictures(2), None)

    class Plain(Small):
        has_spatial, has_logits = False, False

    with pytest.raises(ConfigErrors, match="'sfid' needs spatial features, and 'small' has none"):
        SpatialFID(features=Plain())
    with pytest.raises(ConfigErrors, match="'inception_score' needs logits of classes"):
        InceptionScore(features=Plain())
    with pytest.raises(ValueError, match="'widths' must be greater than 0"):
        MMD(widths=(0.0,))


def test_too_few_and_other_data_are_told():
    few = pictures(3)
    with pytest.raises(PartError, match=r"neighbours = 3 needs at least 4 .*, got 3 and 3"):
        PrecisionRecall(features=Small()).compute(few, few)
    with pytest.raises(PartError, match="at least 2 samples and 2 references, got 1 and 3"):
        KID(features=Small()).compute(few[:1], few)
    with pytest.raises(PartError, match=r"given none; name a folder or an \.npz file"):
        FID(features=Small()).compute(few, None)
    with pytest.raises(ContractError, match="features 'small': pictures must be"):
        FID(features=Small()).compute(torch.zeros(3, 5), few)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ALIGN_CACHE_GB", "1")
    return tmp_path / "cache" / "references"


def test_reference_is_a_folder_or_an_npz_and_is_kept_by_its_content(tmp_path, cache):
    samples, others = pictures(12), pictures(20, seed=3)
    folder, sheet = tmp_path / "pictures", tmp_path / "samples.npz"
    folder.mkdir()
    for number, picture in enumerate(to_bytes(others)):
        save_picture(folder / f"{number:03}.png", picture)
    (folder / "notes.txt").write_text("no picture")
    np.savez(sheet, arr_0=to_bytes(others))
    for metric in ALL[:7]:
        wanted = metric.compute(samples, others)
        for place in (folder, sheet):
            told = attrs.evolve(metric, reference=str(place))
            assert told.compute(samples, None) == pytest.approx(wanted, rel=1e-6, abs=1e-9)
            assert not told.needs_references
    entries = len(list(cache.iterdir()))
    fid = FID(features=Small(), reference=str(folder))
    first, before = fid.compute(samples, None), calls()
    assert fid.compute(samples, None) == first
    assert calls() - before < len(others)
    assert len(list(cache.iterdir())) == entries
    (kept,) = [path for path in cache.glob("*/*") if b"gaussian\\" in path.read_bytes()[:500]][:1]
    _REFERENCES.clear()
    kept.write_bytes(kept.read_bytes()[:100])
    assert fid.compute(samples, None) == pytest.approx(first)
    save_picture(folder / "001.png", np.zeros((12, 12, 3), np.uint8))
    assert fid.compute(samples, None) != first


def test_vectors_have_a_reference_too(tmp_path, cache):
    x, y = normal(30, 2).float(), normal(40, 2, seed=1).float()
    np.savez(tmp_path / "points.npz", arr_0=y.numpy())
    told = MMD(reference=str(tmp_path / "points.npz")).compute(x, None)
    assert told == pytest.approx(MMD().compute(x, y))


def test_references_that_cannot_be_read_are_told(tmp_path, cache):
    samples, empty = pictures(3), tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK nothing")
    np.savez(tmp_path / "whole.npz", arr_0=np.arange(3000).reshape(1, 1000, 3).astype(object))
    np.savez(tmp_path / "cut.npz", arr_0=to_bytes(samples))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:900])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no picture")
    np.savez(tmp_path / "other.npz", labels=np.zeros(3))
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((3, 4, 4, 3)))
    np.savez(tmp_path / "short.npz", mu=np.zeros(5), sigma=np.eye(5))
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    for name, message in (
        ("empty", "has no pictures"),
        ("broken.npz", "no .npz file that can be read"),
        ("cut.npz", "no .npz file that can be read"),
        ("whole.npz", "'arr_0' cannot be read"),
        ("bad", r"x.png' is not a picture"),
        ("other.npz", "has no samples, 'arr_0', only 'labels'"),
        ("floats.npz", r"expected pictures \(N, H, W, 3\) of uint8"),
        ("short.npz", "the reference has 5 features, and 'small' 48"),
        ("one.png", "neither a folder of pictures nor an .npz file"),
    ):
        with pytest.raises(PartError, match=message):
            FID(features=Small(), reference=str(tmp_path / name)).compute(samples, None)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.kind)
def test_on_another_device_the_numbers_are_those_of_the_cpu(metric):
    samples, references = pictures(12), pictures(10, seed=1)
    expected = finish_metric(
        metric, update_metric(metric, samples), update_metric(metric, references)
    )
    _LAST.clear()
    with fake_device() as device:
        kept = [update_metric(metric, data.to(device)) for data in (samples, references)]
    _BUILT.clear()
    assert all(tensor.device.type == "cpu" for state in kept for tensor in state.values())
    assert finish_metric(metric, *kept) == pytest.approx(expected, rel=1e-6, abs=1e-9)
