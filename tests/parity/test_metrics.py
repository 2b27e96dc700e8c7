"""Metrics beside the packages that people quote them from, on equal weights and features."""

import numpy as np
import prdc
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from align.core.streams import Streams
from align.metrics.classes import InceptionScore
from align.metrics.frechet import frechet_distance
from align.metrics.inception import Inception
from align.metrics.mmd import gaussian, polynomial, squared_mmd
from align.metrics.neighbours import density_coverage, precision_recall
from tests.metrics.networks import inception_file


def rows(count, seed, size=24):
    return Streams(seed, tuple(range(count))).fold_in("rows").normal((size,)).double()


SAMPLES, REFERENCES = rows(120, 0) * 1.3 + 0.2, rows(120, 1)


@pytest.mark.parametrize("shape", [(2, 3, 64, 48), (1, 3, 299, 299), (1, 3, 310, 400)])
def test_inception_is_that_of_torch_fidelity(tmp_path, shape):
    path = inception_file(tmp_path)
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    )
    ours = Inception(weights=str(path)).build(torch.device("cpu"))
    levels = (Streams(0, tuple(range(shape[0]))).uniform(shape[1:]) * 255).round().byte()
    pooled, logits = theirs(levels)
    seen = ours.extract(levels.float() / 255)
    assert (seen.pooled - pooled).abs().max() < 1e-5 * pooled.abs().max()
    assert (seen.logits - logits).abs().max() < 1e-5 * logits.abs().max()


def test_frechet_distance_is_that_of_torch_fidelity():
    theirs = fid_statistics_to_metric(
        *map(fid_features_to_statistics, (SAMPLES, REFERENCES)), verbose=False
    )["frechet_inception_distance"]
    assert frechet_distance(SAMPLES, REFERENCES) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (polynomial, {"kid_kernel": "poly"}),
        (gaussian([3.0]), {"kid_kernel": "rbf", "kid_kernel_rbf_sigma": 3.0}),
    ],
)
def test_discrepancy_is_that_of_torch_fidelity(kernel, options):
    theirs = kid_features_to_metric(
        SAMPLES, REFERENCES, kid_subsets=1, kid_subset_size=120, verbose=False, **options
    )["kernel_inception_distance_mean"]
    assert squared_mmd(SAMPLES, REFERENCES, kernel) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("splits", [1, 10])
def test_inception_score_is_that_of_torch_fidelity(monkeypatch, splits):
    theirs = isc_features_to_metric(SAMPLES, splits=splits, shuffle=False)
    monkeypatch.setattr("align.metrics.classes._logits", lambda network, samples: samples)
    # Theirs are cut into parts of rows that follow each other.
    dealt = SAMPLES.unflatten(0, (splits, -1)).transpose(0, 1).flatten(0, 1)
    ours = InceptionScore(splits=splits).compute(dealt, None)
    assert ours["inception_score_inception"] == pytest.approx(
        theirs["inception_score_mean"], rel=1e-9
    )
    if splits > 1:
        expected = pytest.approx(theirs["inception_score_std"], rel=1e-9)
        assert ours["inception_score_inception_std"] == expected


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_neighbours_are_those_of_prdc(neighbours):
    samples, references = SAMPLES[:90, :4], REFERENCES[:, :4]
    theirs = prdc.compute_prdc(np.asarray(references), np.asarray(samples), neighbours)
    ours = (
        *precision_recall(samples, references, neighbours),
        *density_coverage(samples, references, neighbours),
    )
    assert ours == pytest.approx(
        [theirs[name] for name in ("precision", "recall", "density", "coverage")]
    )
    assert min(ours) > 0
