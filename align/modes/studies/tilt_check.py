"""Study: do the samples of a method follow the tilted law?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final, final

import attrs
import torch
from torch import Tensor

from align.core.errors import PartError
from align.core.mode import AlignmentMode, Info, Need, ReportsKL, Trainable
from align.core.model import FlowModel, ModelSpec
from align.core.option import ConfigError, at_least, option
from align.core.problem import Problem
from align.core.streams import Streams
from align.core.study import Findings, Point, Study
from align.engine.guard import guarded
from align.engine.meter import Meter
from align.modes.studies.setting import standard_error
from align.modes.studies.tilted_law import TiltedLaw, measures

_FEWEST: Final = 4  # samples of a set


def _makes_samples(spec: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, Trainable | Study):
        raise ValueError(
            f"'{attribute.name}' must be a mode that makes samples, and '{value.kind}' makes none"
        )


@final
@attrs.frozen(eq=False)
class Checked:
    """The tilted law, how far the method is, what it has cost so far, and what was measured.

    Attributes:
        law: what samples are compared with.
        inner: the method's own state; None before its first step.
        network: rows through the network, forward and backward.
        reward: rows through the rewards, forward and backward.
        points: none before the last step.
    """

    law: TiltedLaw
    inner: Any = None
    network: int = 0
    reward: int = 0
    points: tuple[Point, ...] = ()


@final
@attrs.frozen(kw_only=True)
class TiltCheck(AlignmentMode[Checked], Study[Checked]):
    """Measures whether a method's samples follow the tilted law.

    Are we tilting? The samples of a mode beside p*(x) ∝ p(x) e^{r(x)}.

    The law is exact where the model knows it, as mixtures do for quadratic rewards; elsewhere
    base samples are weighed by e^r, and their effective number is said. Without a method the study
    measures other draws of the law itself: what an exact method would show. Measured are

    - SW2, MMD: the sliced Wasserstein-2 distance to the law's draws, and unbiased MMD².
    - mode masses: half the sum of differences between the modes' shares (mixtures).
    - spread in modes: the deviation within modes over the law's, where the reward sees it.
    - r, r above exact: the mean of r, and less the law's own mean.
    - KL at least, KL of r, KL at most: E[r] − V₀; the divergence of the law of r(x1) alone, by
      neighbours, which is all of it for p*; and what the method itself states.
    - r lost at equal nats: how much more r the law p e^{λ r} has that is as many nats ("KL of r")
      from p. No law has more; a method that loses nothing pays in nats for r alone.
    - rewards a sample: calls of rewards.

    The samples are cut into `sets` sets, fewer where a set would have less than 4 samples, and each
    value is the mean over them, with its standard error.

    Reference: Asymptotic evaluation of certain Markov process expectations for large time I,
    Donsker, Varadhan, 1975, doi:10.1002/cpa.3160280102 (the best r at a divergence).
    """

    kind: ClassVar[str] = "tilt_check"

    method: AlignmentMode[Any] | None = option(
        "the mode whose samples are checked; left out, other draws of the tilted law are",
        default=None,
        check=_makes_samples,
    )
    sets: int = option(
        "equal parts of the samples, each measured by itself, for errors",
        default=8,
        check=at_least(1),
    )
    law_samples: int = option(
        "draws of the tilted law that samples are compared with; twice as many base samples",
        default=2048,
        check=at_least(2),
        grows="rows",
    )
    flow_steps: int = option(
        "steps of base samples, of models that cannot draw data",
        default=50,
        check=at_least(1),
        grows="calls",
    )

    @property
    def needs(self) -> frozenset[Need]:
        """Model and reward, and what the method needs."""
        own: frozenset[Need] = frozenset({"model", "reward"})
        return own | self.method.needs if self.method else own

    @property
    def steps(self) -> int:
        """Those of the method."""
        return self.method.steps if self.method else 1

    def spec_problems(self, model: ModelSpec) -> Iterator[ConfigError]:
        """The method's."""
        for error in self.method.spec_problems(model) if self.method else ():
            yield error.under("method")

    def check_model(self, model: FlowModel) -> None:
        """The method's check."""
        if self.method:
            self.method.check_model(model)

    def init(self, problem: Problem, streams: Streams) -> Checked:
        """The tilted law; the method begins with the first step."""
        with torch.no_grad():
            law = TiltedLaw.of(problem, streams, self.law_samples, self.flow_steps)
        return Checked(law)

    @torch.no_grad()
    def step(
        self, problem: Problem, state: Checked, index: int, streams: Streams
    ) -> tuple[Checked, Info]:
        """A step of the method; after its last one the samples are measured."""
        model, method = guarded(problem.model), self.method
        problem = attrs.evolve(problem, model=model)
        if method is None:
            return self._ended(problem, state, state.law.others(problem, streams))
        before = _calls(model.meter)
        inner = method.init(problem, streams) if state.inner is None else state.inner
        inner, info = method.step(problem, inner, index, streams)
        last = index + 1 == self.steps
        x1 = method.finish(problem, inner) if last else None
        network, reward = (b - a for a, b in zip(before, _calls(model.meter), strict=True))
        state = attrs.evolve(
            state, inner=inner, network=state.network + network, reward=state.reward + reward
        )
        if not last:
            return state, info
        if x1 is None:
            raise PartError(f"mode.method: '{method.kind}' made no samples")
        return self._ended(problem, state, x1)

    def finish(self, problem: Problem, state: Checked) -> None:
        """No samples: they have been measured."""

    def restart(self, last: Checked) -> Checked:
        """The same law, and nothing of the method before."""
        return Checked(last.law)

    def is_prepared_by(self, other: AlignmentMode[Any]) -> bool:
        """Whether another arm's study has made the same tilted law."""
        return isinstance(other, TiltCheck) and self == attrs.evolve(other, method=self.method)

    def findings(self, state: Checked) -> Findings:
        """What was measured, a panel each."""
        law, notes = state.law, list[str]()
        if law.ess is not None:
            notes.append(
                f"The tilted law is known by {len(law.base)} weighed unsteered samples, an"
                f" effective number of {law.ess:.0f}: mean r {law.reward:.3g}, V₀ {law.value:.3g}."
            )
        else:
            notes.append(
                f"The tilted law is known exactly: mean r {law.reward:.3g}, V₀ {law.value:.3g},"
                f" {law.reward - law.value:.3g} nats from the model's own."
            )
        return Findings("", "NFE a sample", state.points, tuple(notes), measures=True)

    def _ended(self, problem: Problem, state: Checked, x1: Tensor) -> tuple[Checked, Info]:
        """The state with its points."""
        law, method, count = state.law, self.method, len(x1)
        rewards = problem.reward_of(x1[None], problem.cond)[0].double()
        known = method.path_kl(state.inner) if isinstance(method, ReportsKL) else None
        sets = [
            measures(problem, law, x1[rows], rewards[rows], known=known)
            for rows in torch.arange(count, device=x1.device).tensor_split(
                min(self.sets, max(1, count // _FEWEST))
            )
        ]
        calls, points = state.network / count, list[Point]()
        for name in dict.fromkeys(name for each in sets for name in each):
            values = torch.tensor([each[name] for each in sets if name in each]).double()
            points.append(Point(name, calls, float(values.mean()), standard_error(values)))
        points.append(Point("rewards a sample", calls, state.reward / count))
        state = attrs.evolve(state, inner=None, points=tuple(points))
        return state, Info({point.panel: point.value for point in points})


def _calls(meter: Meter) -> tuple[int, int]:
    """Rows so far through the network and through rewards, forward and backward."""
    pairs = [(tally.calls, tally.backward) for tally in (meter, meter.rewards)]
    (ahead, back), (scored, led_back) = pairs
    return ahead["network"] + back["network"], sum(scored.values()) + sum(led_back.values())
