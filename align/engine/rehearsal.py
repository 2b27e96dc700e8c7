"""A mode goes through its steps with stand-ins for the parts, to learn what it asks of them.

Stand-ins have the shapes of the parts, and cost nothing. What a mode, an estimator, a sampler or
dynamics ask of the parts is therefore found out by asking them, also of those of plugins.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeAlias, final

import attrs
import torch
from torch import Tensor

from align.core.chunks import Chunks
from align.core.estimator import Prepares
from align.core.mode import AlignmentMode
from align.core.model import (
    Able,
    Condition,
    Domain,
    FlowMap,
    FlowModel,
    NoisyState,
    PosteriorMap,
    ToData,
)
from align.core.path import Path, expand
from align.core.problem import Problem
from align.core.reward import Compares, Reward, WeightedReward
from align.core.streams import Streams
from align.engine.cost import LivingBytes, PartCost
from align.engine.guard import GuardedModel, GuardedReward, guarded
from align.engine.meter import Meter

Part: TypeAlias = tuple[Literal["model", "reward"], str]
"""A method of the model, or a reward by its name."""

SAMPLES: Final = 2
_FEW: Final = 4  # steps that are alike before others are taken to be so
_SIDE: Final = 8  # pixels of stand-ins for pictures
_SLOPE: Final = 1e-3  # of stand-ins for rewards, so that guidance leads nowhere
_STEEP: Final = 1e6  # scores so far from each other that one draw has all the weight


@final
@attrs.frozen
class Asked:
    """A call: of which part, with a graph or without, with how many rows."""

    part: Part
    graph: bool
    rows: int


@final
@attrs.frozen
class Event:
    """What happened to a call, by its number: it was made, differentiated, or its graph let go."""

    call: Asked
    number: int
    what: Literal["made", "back", "freed"]


@final
@attrs.frozen(kw_only=True)
class Counts:
    """What was asked of the parts: rows as in `Cost`, and how often each sort of call was made."""

    calls: Counter[str] = attrs.field(factory=Counter)
    backward: Counter[str] = attrs.field(factory=Counter)
    reward_calls: Counter[str] = attrs.field(factory=Counter)
    reward_backward: Counter[str] = attrs.field(factory=Counter)
    asked: Counter[Asked] = attrs.field(factory=Counter)

    def plus(self, other: Counts, times: int = 1) -> Counts:
        """These and `times` the others."""
        sums = {}
        for field in attrs.fields(Counts):
            total = Counter(getattr(self, field.name))
            for name, count in getattr(other, field.name).items():
                total[name] += times * count
            sums[field.name] = Counter({name: n for name, n in total.items() if n})
        return Counts(**sums)


@final
@attrs.frozen(kw_only=True)
class Rehearsal:
    """What a mode asks of the parts for so many `samples`, from its start to its end.

    Attributes:
        samples: whose calls are counted.
        counts: of all steps.
        events: of the steps that were gone through, in turn.
        shared: what is asked once, however many samples there are; of all samples.
        shared_events: of what is shared, in turn.
        own_bytes: most bytes that the mode itself holds at once.
        own_seconds: what the mode itself takes, for all steps.
    """

    samples: int
    counts: Counts
    events: tuple[Event, ...]
    own_bytes: int
    own_seconds: float
    shared: Counts = attrs.field(factory=Counts)
    shared_events: tuple[Event, ...] = ()

    def peak(self, costs: Mapping[Part, PartCost], rows: Callable[[Asked], int]) -> float:
        """Most bytes that calls of parts take at once.

        Args:
            costs: of the parts; one that is not there takes none.
            rows: how many are in memory at once for such a call.
        """
        shared = self._peak(self.shared_events, costs, lambda call: min(call.rows, rows(call)))
        return max(shared, self._peak(self.events, costs, rows))

    @staticmethod
    def _peak(
        events: Sequence[Event], costs: Mapping[Part, PartCost], rows: Callable[[Asked], int]
    ) -> float:
        held, now, peak = dict[int, float](), 0.0, 0.0
        for event in events:
            if (part := costs.get(event.call.part)) is None:
                continue
            cost, count = part.cost(gradient=event.call.graph), rows(event.call)
            if event.what != "made":
                now -= held.pop(event.number, 0.0)
            if event.what == "made" and event.call.graph:
                peak = max(peak, now + part.forward.peak.of(count))
                held[event.number] = cost.kept.of(count)
                now += held[event.number]
            elif event.what != "freed":
                peak = max(peak, now + cost.peak.of(count))
            peak = max(peak, now)
        return peak


def rehearse(
    mode: AlignmentMode[Any],
    problem: Problem,
    streams: Streams,
    *,
    steep: bool = False,
    continues: bool = False,
) -> Rehearsal:
    """Go through the steps of a mode, with stand-ins for the parts.

    Steps that ask for the same again and again are gone through until that is known.

    Args:
        mode: of the run.
        problem: its parts; they are not called but for what costs no call.
        streams: of its samples; `SAMPLES` of them are made.
        steep: whether scores are so far apart that one draw has all the weight, instead of so close
            that all count alike.
        continues: whether it begins where an equal study ended, so that its beginning costs
            nothing.
    """
    log = _Log()
    few, shared, shared_events = _prepared(log, mode, problem, streams, steep)
    problem, streams = few, streams.rows(slice(SAMPLES))
    with LivingBytes() as living:
        begun = mode.init(problem, streams)
        if continues:
            log.since()
        state, _ = mode.step(problem, begun, 0, streams)
    counts, index = [log.since()], 1
    with log.off_the_record():
        began = time.perf_counter()
        mode.step(problem, begun, 0, streams)
        seconds = time.perf_counter() - began
    total = counts[0]
    while index < mode.steps:
        state, _ = mode.step(problem, state, index, streams)
        counts.append(log.since())
        total, index = total.plus(counts[-1]), index + 1
        period = _period(counts)
        # The last steps are gone through, as they may differ.
        if period and (rounds := (mode.steps - index) // period - 1) > 0:
            for one in counts[-period:]:
                total = total.plus(one, rounds)
            index += rounds * period
    with torch.no_grad():
        mode.finish(problem, state)
    return Rehearsal(
        samples=len(streams.samples),
        counts=total.plus(log.since()),
        events=tuple(log.events),
        own_bytes=living.peak,
        own_seconds=seconds * mode.steps,
        shared=shared,
        shared_events=shared_events,
    )


def _prepared(
    log: _Log, mode: AlignmentMode[Any], problem: Problem, streams: Streams, steep: bool
) -> tuple[Problem, Counts, tuple[Event, ...]]:
    """The problem with stand-ins, for `SAMPLES` samples, ready for the first step.

    And what it cost to make what all samples share, in sum and in turn.
    """
    samples, estimator = len(streams.samples), problem.estimator
    whole, few = (log.problem(problem, n, samples, steep) for n in (samples, min(SAMPLES, samples)))
    if "estimator" not in mode.needs or not isinstance(estimator, Prepares):
        return few, Counts(), ()
    estimator.prepare(whole, streams)
    shared, events = log.since(), tuple(log.events)
    log.events.clear()
    with log.off_the_record():
        estimator.prepare(attrs.evolve(few, cond=whole.cond), streams)
    return few, shared, events


def _period(counts: Sequence[Counts]) -> int:
    """After how many steps what is asked repeats itself, as far as is known; 0 if it does not.

    The first step is left out, and at least four others are looked at.
    """
    for period in range(1, (len(counts) - 1) // 2 + 1):
        seen = counts[-max(_FEW, 2 * period) :]
        repeats = all(a == b for a, b in zip(seen, seen[period:], strict=False))
        if len(counts) > _FEW and repeats and any(one.asked for one in seen[-period:]):
            return period
    return 0


@final
@attrs.define(eq=False)
class _Log:
    """What stand-ins were asked."""

    meter: Meter = attrs.field(factory=Meter)
    asked: Counter[Asked] = attrs.field(factory=Counter)
    events: list[Event] = attrs.field(factory=list)
    made: int = 0
    before: Counts = attrs.field(factory=Counts)

    def problem(self, problem: Problem, samples: int, all_samples: int, steep: bool) -> Problem:
        """The problem with stand-ins in place of its parts, for the first of all its samples.

        Chunks are as much smaller as there are fewer samples, so that batches are cut alike.
        """
        model, meter, cond = guarded(problem.model), self.meter, problem.cond.rows(slice(samples))
        # Stand-ins have no operations that are worth counting.
        fewer = Chunks(max(1, problem.chunks.cap * samples // all_samples))
        meter.row_flops |= {"network": 0.0, "decoder": 0.0}
        meter.rewards.row_flops |= {term.name: 0.0 for term in problem.reward.terms}
        terms = tuple(
            attrs.evolve(
                term,
                reward=GuardedReward(
                    _StandInReward(term.reward, ("reward", term.name), self, steep),
                    term.name,
                    meter,
                    fewer,
                    getattr(term.reward, "differentiable", False),
                ),
            )
            for term in problem.reward.terms
        )
        return attrs.evolve(
            problem,
            model=GuardedModel(_StandIn(model.inner, self), model.name, meter, fewer),
            reward=WeightedReward(terms),
            cond=cond,
            chunks=fewer,
        )

    def since(self) -> Counts:
        """What was asked since this was last asked."""
        now = Counts(
            calls=Counter(self.meter.calls),
            backward=Counter(self.meter.backward),
            reward_calls=Counter(self.meter.rewards.calls),
            reward_backward=Counter(self.meter.rewards.backward),
            asked=Counter(self.asked),
        )
        before, self.before = self.before, now
        return now.plus(before, -1)

    @contextmanager
    def off_the_record(self) -> Iterator[None]:
        """Forget what is asked meanwhile."""
        events = len(self.events)
        yield
        del self.events[events:]
        self.since()

    def answer(self, part: Part, result: Tensor) -> Tensor:
        """The result of a call, which is noted; a way back through it is noted too."""
        call = Asked(part, result.requires_grad, len(result))
        self.asked[call] += 1
        self.made += 1
        self.events.append(Event(call, self.made, "made"))
        return _noted(result, self, call, self.made) if result.requires_grad else result


class _Graph:
    """Lives as long as the graph of a call."""

    def __init__(self, log: _Log, call: Asked, number: int) -> None:
        self._log, self._call, self._number = log, call, number

    def __del__(self) -> None:
        self._log.events.append(Event(self._call, self._number, "freed"))


class _Noted(torch.autograd.Function):
    """The identity; what happens to its graph is noted."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log: _Log, call: Asked, number: int) -> Tensor:
        """The same numbers."""
        ctx.log, ctx.call, ctx.number = log, call, number
        ctx.graph = _Graph(log, call, number)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The same gradient."""
        ctx.log.events.append(Event(ctx.call, ctx.number, "back"))
        return gradients[0], None, None, None


_noted: Final[Callable[..., Tensor]] = _Noted.apply


def _of_inner(name: str) -> Any:
    return attrs.field(
        init=False, default=attrs.Factory(lambda self: getattr(self.inner, name), takes_self=True)
    )


@final
@attrs.frozen(eq=False)
class _StandIn(FlowModel):
    """A flow of standard normal data, of the shape and with the capabilities of a model.

    What costs the model no call is asked of the model itself.
    """

    inner: FlowModel
    log: _Log

    path: Path = _of_inner("path")
    shape: tuple[int, ...] = _of_inner("shape")
    domain: Domain = _of_inner("domain")
    dtype: torch.dtype = _of_inner("dtype")
    device: torch.device = _of_inner("device")

    def encode(self, prompts: Sequence[str]) -> Condition:
        """The model's condition."""
        return self.inner.encode(prompts)

    def velocity(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """(α' α + β' β) / (α² + β²) x."""
        path = self.path
        alpha, beta = path.alpha(t), path.beta(t)
        factor = path.alpha_rate(t) * alpha + path.beta_rate(t) * beta
        result = expand(factor / (alpha**2 + beta**2), x) * x
        return self.log.answer(("model", "velocity"), result)

    @property
    def rows_per_velocity(self) -> int:
        """The model's."""
        return self.inner.rows_per_velocity

    def decode(self, x1: Tensor) -> Tensor:
        """States as they are for vectors, and small pictures in their place."""
        if self.domain == "vector":
            return self.log.answer(("model", "decode"), x1 * 1)
        grey = torch.sigmoid(x1.flatten(1).mean(1))[:, None, None, None]
        return self.log.answer(("model", "decode"), grey.expand(-1, 3, _SIDE, _SIDE))

    def capability(self, kind: type[Able]) -> Able | None:
        """The model's, with stand-ins for what calls a network."""
        part = self.inner.capability(kind)
        stand_in: object = part
        if isinstance(part, PosteriorMap) and kind is PosteriorMap:
            stand_in = _StandInPosteriorMap(self)
        elif isinstance(part, FlowMap) and kind in (FlowMap, ToData):
            stand_in = _StandInFlowMap(self)
        elif isinstance(part, ToData) and kind is ToData:
            stand_in = _StandInToData(self)
        return stand_in if isinstance(stand_in, kind) else None

    def scaled(self, x: Tensor, s: Tensor, u: Tensor) -> Tensor:
        """The flow from s to u: √((α_u² + β_u²) / (α_s² + β_s²)) x."""
        before, after = (self.path.alpha(t) ** 2 + self.path.beta(t) ** 2 for t in (s, u))
        return expand((after / before).sqrt(), x) * x


@final
@attrs.frozen(eq=False)
class _StandInFlowMap(FlowMap):
    model: _StandIn

    def jump(self, x: Tensor, s: Tensor, u: Tensor, cond: Condition) -> Tensor:
        """The jump along the flow of standard normal data."""
        return self.model.log.answer(("model", "jump"), self.model.scaled(x, s, u))


@final
@attrs.frozen(eq=False)
class _StandInToData(ToData):
    model: _StandIn

    def to_data(self, x: Tensor, s: Tensor, cond: Condition) -> Tensor:
        """The jump to data along that flow."""
        result = self.model.scaled(x, s, torch.ones_like(s))
        return self.model.log.answer(("model", "to_data"), result)


@final
@attrs.frozen(eq=False)
class _StandInPosteriorMap(PosteriorMap):
    model: _StandIn

    def posterior_jump(self, y: Tensor, s: Tensor, u: Tensor, noisy: NoisyState) -> Tensor:
        """A way towards x_t, which both y and x_t have a share in."""
        result = y + expand(u - s, y) * (noisy.x - y) / 2
        return self.model.log.answer(("model", "posterior_jump"), result)


@final
@attrs.frozen(eq=False)
class _StandInReward(Reward):
    """The mean of the data, by very little or by very much; its gradient is always small."""

    inner: Reward
    part: Part
    log: _Log
    steep: bool

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,), float32 or wider."""
        mean = self.mean(data)
        differentiable = getattr(self.inner, "differentiable", False)
        score = _SLOPE * (mean if differentiable else mean.detach())
        return self.log.answer(self.part, score + _STEEP * mean.detach() if self.steep else score)

    def mean(self, data: Tensor) -> Tensor:
        """Of each row (B,), float32 or wider."""
        mean = data.flatten(1).mean(1)
        return mean if mean.dtype == torch.float64 else mean.float()

    def capability(self, kind: type[Able]) -> Able | None:
        """The reward's own, with a stand-in for what compares."""
        part = self.inner.capability(kind)
        if isinstance(part, Compares):
            stand_in: object = _StandInCompares(self, part)
            return stand_in if isinstance(stand_in, kind) else None
        return part


@final
@attrs.frozen(eq=False)
class _StandInCompares(Compares):
    """How far a member's mean lies above its group's, by very little or by very much."""

    reward: _StandInReward
    inner: Compares

    def compare(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N, B), float32 or wider."""
        means = torch.stack([self.reward.mean(group).detach() for group in data])
        return (_SLOPE + _STEEP * self.reward.steep) * (means - means.mean(0))

    def calls(self, members: int) -> int:
        """The reward's own."""
        return self.inner.calls(members)
