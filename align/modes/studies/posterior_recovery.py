"""Study: do posterior draws have the right law?"""

from __future__ import annotations

from typing import ClassVar, final

import attrs
import torch
from torch import Tensor

from align.core.dataset import DatasetSpec
from align.core.metric import Metric
from align.core.mode import AlignmentMode, Info, Need
from align.core.model import Condition, ModelSpec, NoisyState
from align.core.option import option
from align.core.path import times_of
from align.core.problem import Problem
from align.core.sampler import draw_posterior
from align.core.streams import Streams
from align.core.study import Findings, Point, Study
from align.engine.guard import guarded
from align.modes.studies import setting
from align.modes.studies.data import clean, decoded, measured


@final
@attrs.frozen(eq=False)
class Recovery:
    """Clean states x1 (B, *S), their conditions, what they decode to, and the points so far."""

    x1: Tensor
    cond: Condition
    references: Tensor
    value: str
    points: tuple[Point, ...] = ()


@final
@attrs.frozen(kw_only=True)
class PosteriorRecovery(AlignmentMode[Recovery], Study[Recovery]):
    """Measures whether posterior draws have the data's law.

    Do posterior draws have the law of the data?

        x1 ~ p,   x_t = α_t ε + β_t x1,   x̂ ~ p(x1 | x_t):   then x̂ ~ p, whatever t is.

    One draw is made for each of `run.samples` data, at each time and with each number of steps of
    the sampler, and the metric compares all draws with the data. A sampler without the option
    `steps` is measured as it is. Noise is the same for all times, steps and samplers.

    Reference: Meta Flow Maps, Potaptchik et al., 2026, arXiv:2601.14430, section 7.2.1, Fig. 6.
    """

    kind: ClassVar[str] = "posterior_recovery"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "sampler"})

    metric: Metric = option("how far draws are from data, in one number")
    data: DatasetSpec | None = option("pictures; without them a model draws the data", default=None)
    data_model: ModelSpec | None = option(
        "model that draws the data, if not the recipe's own", default=None
    )
    times: tuple[float, ...] = option(
        "times t of the noisy states",
        default=(0.1, 0.2, 0.5),
        check=setting.every(lambda t: 0 <= t < 1, "times from 0 to below 1"),
    )
    inner_steps: tuple[int, ...] = setting.inner_steps_option()

    @property
    def steps(self) -> int:
        """One step measures one time and one number of steps."""
        return len(self.times) * len(self.inner_steps)

    def init(self, problem: Problem, streams: Streams) -> Recovery:
        """The data."""
        x1, cond = clean(self.data, self.data_model, problem, streams)
        return Recovery(x1, cond, decoded(problem, x1), self.metric.kind)

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Recovery, index: int, streams: Streams
    ) -> tuple[Recovery, Info]:
        """All draws at one time; costs the sampler's calls a sample."""
        which, place = divmod(index, len(self.times))
        sampler = setting.varied(problem.sampler, self.inner_steps, which)
        if sampler is None:
            return state, Info({})
        model, path, time = guarded(problem.model), problem.model.path, self.times[place]
        t = times_of(state.x1, time)
        noise = streams.fold_in("noise").normal(model.shape).to(state.x1)
        noisy = NoisyState(path.interpolate(noise, state.x1, t), t, state.cond)
        numbers = streams.fold_in("draw")

        def draw() -> Tensor:
            return torch.cat(
                [
                    draw_posterior(
                        sampler, model, noisy.rows(cut), draws=1, streams=numbers.rows(cut)
                    )[0]
                    for cut in setting.cuts(problem, len(t))
                ]
            )

        draws, calls = setting.counted(model, draw)
        name, value = measured(self.metric, problem, draws, state.references)
        point = Point(f"t = {time:g}", calls / len(draws), value)
        state = attrs.evolve(state, value=name, points=(*state.points, point))
        return state, Info({name: value, "t": time, "NFE": point.calls})

    def finish(self, problem: Problem, state: Recovery) -> None:
        """No samples."""

    def restart(self, last: Recovery) -> Recovery:
        """What the arm before was measured against, with no points yet."""
        return attrs.evolve(last, points=())

    def findings(self, state: Recovery) -> Findings:
        """The metric over calls, at each time."""
        return Findings(state.value, "NFE a draw", state.points, ratios=True)
