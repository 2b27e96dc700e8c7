"""Trackers for `align`: TensorBoard, Weights & Biases, MLflow and trackio."""

from align import Tracker, hookimpl


@hookimpl
def align_trackers() -> list[type[Tracker]]:
    """The trackers of this distribution."""
    from align_trackers.mlflow import MLflow
    from align_trackers.tensorboard import TensorBoard
    from align_trackers.trackio import Trackio
    from align_trackers.wandb import WeightsAndBiases

    return [TensorBoard, WeightsAndBiases, MLflow, Trackio]
