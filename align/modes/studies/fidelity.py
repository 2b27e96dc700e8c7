"""Study: how good are samples that take a few steps?"""

from __future__ import annotations

from typing import ClassVar, Literal, final

import attrs
import torch
from torch import Tensor

from align.core.dataset import DatasetSpec
from align.core.metric import Metric
from align.core.mode import AlignmentMode, Info, Need
from align.core.model import Condition, ModelSpec
from align.core.option import option
from align.core.problem import Problem
from align.core.streams import Streams
from align.core.study import Findings, Point, Study
from align.engine.guard import guarded
from align.modes.sampling.rollout import flow
from align.modes.studies import setting
from align.modes.studies.data import clean, decoded, measured
from align.samplers.refine import refine


@final
@attrs.frozen(eq=False)
class Fidelities:
    """Data as metrics see them, the condition of samples, and the points so far."""

    references: Tensor
    cond: Condition
    value: str
    points: tuple[Point, ...] = ()


@final
@attrs.frozen(kw_only=True)
class Fidelity(AlignmentMode[Fidelities], Study[Fidelities]):
    """Measures how good samples of few steps are.

    How far are samples of K steps from data?

    "refinement" makes K posterior draws, each but the last made noisy again; it calls the network K
    times as often as the sampler does for one draw. "flow" takes K Euler steps along the velocity,
    with one call each. Neither is steered. The metric compares `run.samples` samples with as many
    data.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 7.2.1 and
    Algorithm 1.
    """

    kind: ClassVar[str] = "fidelity"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "sampler"})

    metric: Metric = option("how far samples are from data, in one number")
    data: DatasetSpec | None = option("pictures; without them a model draws the data", default=None)
    data_model: ModelSpec | None = option(
        "model that draws the data, if not the recipe's own", default=None
    )
    method: Literal["refinement", "flow"] = option("how samples are made", default="refinement")
    by_class: bool = option("whether samples have the classes of the data", default=False)
    outer_steps: tuple[int, ...] = setting.counts_option(
        "steps K from noise to a sample", default=(1, 2, 4, 8)
    )

    @property
    def steps(self) -> int:
        """One step measures one number of steps."""
        return len(self.outer_steps)

    def init(self, problem: Problem, streams: Streams) -> Fidelities:
        """The data."""
        x1, cond = clean(self.data, self.data_model, problem, streams)
        cond = cond if self.by_class else problem.cond
        return Fidelities(decoded(problem, x1), cond, self.metric.kind)

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Fidelities, index: int, streams: Streams
    ) -> tuple[Fidelities, Info]:
        """All samples of K steps."""
        model, count = guarded(problem.model), len(streams.samples)

        def make() -> Tensor:
            cuts = setting.cuts(problem, count)
            return torch.cat(
                [
                    self._samples(
                        problem, state.cond.rows(cut), self.outer_steps[index], streams.rows(cut)
                    )
                    for cut in cuts
                ]
            )

        problem = attrs.evolve(problem, model=model)
        x1, calls = setting.counted(model, make)
        name, value = measured(self.metric, problem, x1, state.references)
        point = Point("", calls / count, value)
        state = attrs.evolve(state, value=name, points=(*state.points, point))
        return state, Info({name: value, "NFE": point.calls})

    def finish(self, problem: Problem, state: Fidelities) -> None:
        """No samples: the study makes several sets of them."""

    def restart(self, last: Fidelities) -> Fidelities:
        """What the arm before was measured against, with no points yet."""
        return attrs.evolve(last, points=())

    def findings(self, state: Fidelities) -> Findings:
        """The metric over calls."""
        return Findings(state.value, "NFE a sample", state.points, ratios=True)

    def _samples(self, problem: Problem, cond: Condition, steps: int, streams: Streams) -> Tensor:
        """x1 (b, *S)."""
        model = problem.model
        if self.method == "flow":
            x = streams.fold_in("start").normal(model.shape).to(model.device, model.dtype)
            return flow(model, x, cond, steps=steps)
        assert problem.sampler is not None
        return refine(model, problem.sampler, cond, steps=steps, streams=streams)
