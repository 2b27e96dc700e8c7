"""The trackers by the checks of their contract."""

import pytest
from align_trackers.mlflow import MLflow
from align_trackers.tensorboard import TensorBoard
from align_trackers.trackio import Trackio
from align_trackers.wandb import WeightsAndBiases

from align.testing import conformance

pytestmark = pytest.mark.filterwarnings("default")  # of the services' packages

test_tensorboard = conformance("tracker", TensorBoard)
test_tensorboard_elsewhere = conformance("tracker", lambda: TensorBoard(folder="events"))
test_wandb = conformance("tracker", lambda: WeightsAndBiases(project="checks"))
test_mlflow = conformance("tracker", lambda: MLflow(experiment="checks"))
test_trackio = conformance("tracker", lambda: Trackio(project="checks"))
