"""Services that cannot be had: a package that is missing, a server that is away, a full disk."""

import importlib.util
import json

import pytest
from align_trackers.mlflow import MLflow
from align_trackers.tensorboard import TensorBoard
from align_trackers.trackio import Trackio
from align_trackers.wandb import WeightsAndBiases

pytestmark = pytest.mark.filterwarnings("default")  # of the services' packages
PACKAGES = {
    TensorBoard: "tensorboard",
    WeightsAndBiases: "wandb",
    MLflow: "mlflow",
    Trackio: "trackio",
}


@pytest.mark.parametrize("tracker", PACKAGES)
def test_package_that_is_missing_is_named_with_what_installs_it(tracker, monkeypatch):
    package, find = PACKAGES[tracker], importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == package else find(n))
    text = f"{package} is not installed; pip install 'align-trackers[{package}]'"
    with pytest.raises(ValueError) as caught:
        tracker()
    assert str(caught.value) == text


def test_services_that_fail_are_named_once_and_the_run_is_done(tracked, tmp_path):
    (tmp_path / "file").write_text("in the way")
    away = 'kind = "mlflow", uri = "http://127.0.0.1:9"'
    full = f'kind = "tensorboard", folder = "{tmp_path}/file"'
    folder = tracked(f"[{{ {away} }}, {{ {full} }}]")
    log = (folder / "log.txt").read_text()
    assert json.loads((folder / "about.json").read_text())["status"] == "done"
    for kind in ("mlflow", "tensorboard"):
        assert log.count(f"tracker '{kind}' is told no more about this run, which goes on") == 1
