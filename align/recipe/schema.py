"""What a recipe says, once it is read: sections, and the parts they name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, final

import attrs

from align.core.draws import Count
from align.core.estimator import ValueEstimator
from align.core.executor import Executor
from align.core.metric import Metric
from align.core.mode import AlignmentMode
from align.core.model import ModelSpec
from align.core.option import at_least, option
from align.core.sampler import PosteriorSampler
from align.core.term import RewardTerm
from align.core.tracker import Tracker


def _auto_or_at_least_0(_: Any, attribute: attrs.Attribute[Any], value: Count) -> None:
    if value != "auto" and value < 0:
        raise ValueError(f"'{attribute.name}' must be at least 0 or 'auto', got {value}")


def _none_or_some(_: Any, attribute: attrs.Attribute[Any], value: int) -> None:
    if value < 0 or value == 1:
        raise ValueError(f"'{attribute.name}' must be 0 or at least 2, got {value}")


def _seed(_: Any, attribute: attrs.Attribute[Any], value: int) -> None:
    if not 0 <= value < 2**63:
        raise ValueError(f"'{attribute.name}' must be from 0 to 2^63 - 1, got {value}")


@final
@attrs.frozen(kw_only=True)
class Run:
    """Section [run]: what is the same for every mode."""

    seed: int = option("the number every random number is derived from", default=0, check=_seed)
    samples: int = option("how many samples are made", default=8, check=at_least(1))
    unsteered: int = option(
        "samples of the base model that V_0 and the rewards' statistics come from, drawn where"
        " something uses them; 0 for none",
        default=64,
        check=_none_or_some,
    )
    cache: bool = option(
        "whether samples of the base model are kept for later runs, and kept ones are taken",
        default=True,
    )
    out: str = option(
        "folder of the record; 'runs/<name of the recipe>' if empty", default="", path="written"
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "where to compute; 'auto' is cuda when there is one", default="auto"
    )
    chunk: int = option(
        "most rows at once of any part; 0 for 64 on a CPU and 256 on a GPU, where memory allows",
        default=0,
        check=at_least(0),
    )
    block: int = option(
        "samples of a block, which is made and kept on its own; 0 for 256"
        " pictures or 16384 vectors",
        default=0,
        check=at_least(0),
    )
    on: Executor | None = option(
        "who makes the blocks: processes here ('local'), or elsewhere; this process if left out",
        default=None,
    )
    npz: bool = option(
        "whether the pictures are also written as samples.npz, which the evaluator of ADM reads",
        default=False,
    )
    checkpoint_every: int = option(
        "steps between the checkpoints of a training run", default=200, check=at_least(1)
    )
    pictures_every: Count = option(
        "steps between pictures of the draws that guide a sample; 0 for none, 'auto' for twelve in"
        " all",
        default="auto",
        check=_auto_or_at_least_0,
    )
    trackers: tuple[Tracker, ...] = option(
        "who else keeps the numbers and pictures of the run, such as 'tensorboard'", default=()
    )


@final
@attrs.frozen(kw_only=True)
class Arm:
    """One arm of a comparison: the parts that may differ from arm to arm.

    Attributes:
        weights: of some rewards, by their names, in place of those that [[reward]] says.
        factors: what a sweep varied, by short names, with the values that this arm has.
    """

    name: str
    model: ModelSpec | None
    sampler: PosteriorSampler | None
    estimator: ValueEstimator | None
    mode: AlignmentMode[Any]
    weights: Mapping[str, float] | None = None
    factors: Mapping[str, Any] | None = None

    @property
    def draws(self) -> bool:
        """Whether posterior draws are asked for: by the mode, or by an estimator that it asks."""
        asked = self.estimator if "estimator" in self.mode.needs else None
        return "sampler" in self.mode.needs or bool(asked and asked.needs_sampler)


@final
@attrs.frozen(kw_only=True)
class Recipe:
    """A recipe with every value resolved.

    Attributes:
        compare: the arms of a comparison, complete; empty when nothing is compared.
        files: of a resolved recipe, the digests of what it reads, by paths: files that have changed
            since are refused.
    """

    run: Run = attrs.field(factory=Run)
    model: ModelSpec | None = None
    sampler: PosteriorSampler | None = None
    estimator: ValueEstimator | None = None
    reward: tuple[RewardTerm, ...] = ()
    metric: tuple[Metric, ...] = ()
    mode: AlignmentMode[Any]
    compare: tuple[Arm, ...] = ()
    files: Mapping[str, str] = attrs.field(factory=dict)

    def arms(self) -> tuple[Arm, ...]:
        """What is run, one after the other: the comparison, or the recipe as it stands."""
        if self.compare:
            return self.compare
        name, sampler, estimator = self.mode.kind, self.sampler, self.estimator
        arm = Arm(name=name, model=self.model, sampler=sampler, estimator=estimator, mode=self.mode)
        return (arm,)
