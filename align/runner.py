"""The one road a run takes: recipe, parts, engine, record."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import attrs
import torch
from loguru import logger
from torch import Tensor

from align import report
from align.core.engine import Observer, Outcome, execute
from align.core.guard import GuardedModel, GuardedReward
from align.core.meter import Cost, Meter
from align.core.mode import AlignmentMode, Info, Trains
from align.core.model import Condition, FlowModel, NoModel
from align.core.problem import Problem
from align.core.reward import Term, WeightedReward
from align.core.streams import Streams
from align.errors import AlignError
from align.progress import Progress
from align.recipe import Arm, Loaded, Recipe, load, to_toml
from align.record import Record, folder_for
from align.registry import Catalog, load_catalog

CHECKPOINT_EVERY = 200


@final
@attrs.frozen(eq=False)
class Side:
    """How one arm of a run ended.

    Attributes:
        name: of the arm.
        x1: clean states (B, *S), or None from a mode that makes no samples.
        data: decoded samples.
        scores: every reward's score (B,) by name, held-out ones included.
        metrics: numbers about the whole set of samples.
        cost: of the arm.
    """

    name: str
    x1: Tensor | None
    data: Tensor | None
    scores: Mapping[str, Tensor]
    metrics: Mapping[str, float]
    cost: Cost


@final
@attrs.frozen(eq=False)
class Result:
    """How a run ended: its folder, and its arms in the recipe's order."""

    folder: Path
    sides: tuple[Side, ...]


def run(
    recipe: str | Path, *, sets: Sequence[str] = (), progress: bool = True,
    catalog: Catalog | None = None,
) -> Result:  # fmt: skip
    """Run a recipe.

    Args:
        recipe: the TOML file.
        sets: overrides as on the command line, "mode.steps=20".
        progress: whether to show a progress bar on the terminal.
        catalog: the installed parts, if they are already loaded.

    Raises:
        RecipeError: the recipe cannot run as it is written.
        AlignError: something else that the user can mend.
        KeyboardInterrupt: the run was stopped; what it had is in its folder.
    """
    catalog = catalog or load_catalog()
    loaded = load(recipe, sets=sets, catalog=catalog)
    text = to_toml(loaded.recipe)
    folder = folder_for(Path(loaded.recipe.run.out), text)
    record = Record.open(folder, text, _origins(loaded.recipe, catalog))
    catalog.hook.align_run_start(run=record)
    result: Result | None = None
    try:
        with stop_after_step() as stopping, Progress.shown(progress) as bar:
            sides = _sides(loaded, catalog, record, bar, stopping)
        result = Result(folder, sides)
        report.write(record, loaded.recipe, sides)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        record.close("interrupted" if stopped else f"failed: {type(error).__name__}: {error}")
        catalog.hook.align_run_end(run=record, result=None, error=error)
        raise
    record.close("done")
    catalog.hook.align_run_end(run=record, result=result, error=None)
    return result
