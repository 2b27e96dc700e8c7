"""What fine-tuning has under way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import attrs
from torch import Tensor

from align.core.model import Condition
from align.core.streams import Streams
from align.models.network import NetworkModel
from align.modes.clean import CleanData
from align.modes.evaluation import fallen
from align.objectives.tilt import Tilt
from align.training.loop import Training


@final
@attrs.define(eq=False)
class Tuning:
    """Weights under way, what they are trained on, and what is known of them so far.

    Attributes:
        training: of the flow.
        model: that the flow belongs to.
        tilt: what the objective is handed.
        clean: clean data, and what they are conditioned on.
        shown: conditions of the samples that are evaluated.
        references: decoded samples of the base model, from the same noise.
        best: the highest mean of each reward that evaluations found, with its error.
        worst: those of the first evaluation that says the reward was hacked; NaN until then.
        told: what an evaluation says of the base model.
        streams: of the run's samples.
    """

    training: Training
    model: NetworkModel
    tilt: Tilt
    clean: CleanData
    shown: Condition
    references: Tensor
    best: dict[str, Tensor]
    worst: dict[str, Tensor]
    told: Mapping[str, float]
    streams: Streams

    @property
    def warning(self) -> str:
        """That the reward was hacked; "" while nothing says so."""
        return fallen(self.tilt.problem, self.best, self.worst)
