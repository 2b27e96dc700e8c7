"""MLflow: a run for each arm, in a local database or on a tracking server."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import attrs
import numpy as np

from align import ArmTracker, TrackedArm, Tracker, option
from align_trackers.package import require

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH: Final = 100  # parameters that a request may have
_LONGEST: Final = 250  # letters of a name, and of a parameter
_REFUSED: Final = re.compile(r"[^\w\-. /:]")


@final
@attrs.frozen(kw_only=True)
class MLflow(Tracker):
    """Runs in MLflow: tables of many runs on your own machine.

    Without a `uri` it is MLflow that decides: the server that MLFLOW_TRACKING_URI names, else the
    database mlflow.db in the working folder, which `mlflow ui` shows.

    Reference: Accelerating the machine learning lifecycle with MLflow, Zaharia et al., 2018,
    IEEE Data Engineering Bulletin 41(4).
    """

    kind: ClassVar[str] = "mlflow"

    experiment: str = option("experiment that the arms are kept in", default="align")
    uri: str = option(
        "database or server, as in 'sqlite:///mlflow.db' or 'http://localhost:5000'; as MLflow is"
        " set up if empty",
        default="",
    )

    def __attrs_post_init__(self) -> None:
        require("mlflow")

    def open(self, arm: TrackedArm) -> ArmTracker:
        """A run of an experiment, with the recipe as parameters and as a file."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient(self.uri or None)
        found = client.get_experiment_by_name(self.experiment)
        home = found.experiment_id if found else client.create_experiment(self.experiment)
        tags = {"align.run": arm.run, "align.arm": arm.name}
        run = str(client.create_run(home, run_name=arm.title, tags=tags).info.run_id)
        params = [Param(name, value) for name, value in _flat(arm.tables)]
        for first in range(0, len(params), _BATCH):
            client.log_batch(run, params=params[first : first + _BATCH])
        client.log_text(run, arm.recipe, "recipe.toml")
        return _Run(client, run)


@final
@attrs.frozen(eq=False)
class _Run(ArmTracker):
    client: MlflowClient
    run: str
    _last: list[int] = attrs.field(factory=lambda: [0])

    def numbers(self, index: int, numbers: Mapping[str, float]) -> None:
        """Metrics of a step."""
        from mlflow.entities import Metric

        self._last[0], now = index, int(1000 * time.time())
        metrics = [Metric(_name(name), value, now, index) for name, value in numbers.items()]
        self.client.log_batch(self.run, metrics=metrics)

    def picture(self, index: int, picture: np.ndarray) -> None:
        """An image of a step, named "samples"."""
        self.client.log_image(self.run, picture, key="samples", step=index)

    def close(self, numbers: Mapping[str, float], *, failed: bool) -> None:
        """Results as metrics of the last step."""
        if numbers:
            final = {f"final/{name}": value for name, value in numbers.items()}
            self.numbers(self._last[0], final)
        self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


def _name(name: str) -> str:
    """A name without the letters that MLflow refuses."""
    return _REFUSED.sub("_", name)[:_LONGEST]


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The values in tables with their keys, as 'mode.steps'."""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        value = {str(place): item for place, item in enumerate(value)}
    if not isinstance(value, Mapping):
        yield _name(key), str(value)[:_LONGEST]
        return
    for name, item in value.items():
        yield from _flat(item, f"{key}.{name}" if key else name)
