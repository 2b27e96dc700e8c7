"""Metrics of a run load what they need before the first sample."""

import numpy as np
import pytest
import torch

from align.core.errors import PartError
from align.metrics.mmd import MMD
from align.runner.session import run

RECIPE = {
    "run": {"samples": 40, "unsteered": 0, "block": 16},
    "model": {
        "kind": "mixture",
        "weights": [0.4, 0.6],
        "means": [[-2.0, 0.0], [2.0, 1.0]],
        "stds": [0.5, 0.7],
    },
    "mode": {"kind": "best_of_n", "n": 1, "flow_steps": 4},
    "reward": [{"kind": "likelihood", "matrix": [[1.0, 0.0]], "observed": [0.0], "std": 1.0}],
}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return {**RECIPE, "metric": [{"kind": "mmd", "reference": "points.npz"}]}


def test_a_reference_of_its_own_needs_no_other_arm(recipe, tmp_path):
    points = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    np.savez(tmp_path / "points.npz", arr_0=points)
    (arm,) = run(recipe).results
    direct = MMD().compute(arm.x1, torch.from_numpy(points))
    assert arm.metrics["mmd_squared"] == pytest.approx(direct["mmd_squared"], rel=1e-6)


def test_a_damaged_reference_costs_no_samples(recipe, tmp_path):
    (tmp_path / "points.npz").write_bytes(b"cut")
    with pytest.raises(PartError, match=r"points.npz' is no \.npz file that can be read"):
        run(recipe)
    assert not [*tmp_path.glob("runs/*/**/*.safetensors")]
