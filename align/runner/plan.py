"""What an arm of a run will cost, before it runs: calls, operations, seconds and memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, final

import attrs
import torch
from torch import Tensor

from align.core.chunks import fitting
from align.core.errors import AlignError, PartError
from align.core.mode import Trainable
from align.core.model import Condition, FlowModel, ModelSpec, build_model
from align.core.problem import Problem
from align.core.reward import Reward, RewardSpec
from align.core.streams import Streams
from align.core.study import Study
from align.core.term import RewardTerm
from align.engine.cost import Call, PartCost, PassCost, Use, part_cost
from align.engine.guard import GuardedModel, GuardedReward, guarded
from align.engine.meter import Cost, Meter, memory_now
from align.engine.rehearsal import Asked, Counts, Part, Rehearsal, rehearse
from align.engine.sketch import Sketch, called
from align.io.text import number_of
from align.modes.sampling.best_of_n import BestOfN
from align.modes.studies.tilt_check import TiltCheck
from align.recipe import Arm, Recipe, Run
from align.recipe.sizes import readable
from align.runner.base_samples import arms_with_bases, flow_steps_of
from align.runner.build import Built, Rewards, build, device_of
from align.runner.training_plan import rows_of, training_cost, with_few_rows
from align.runner.worker import shared_steps
from align.training.mode import TrainingMode

_SLOW_ROW: Final = 0.2  # seconds; no step of training is tried where a row takes more
_ALL: Final = 1 << 20  # rows; measured calls are not cut
_DECODE: Final[Part] = ("model", "decode")
_EXTERNAL: Final = "a service computes it, which is asked for nothing before the run"


@final
@attrs.frozen(kw_only=True)
class Plan:
    """What an arm will cost.

    Attributes:
        cost: all of it; its memory is what is loaded now and what comes on top.
        most: the same where scores are so far apart that numbers of draws which are chosen on the
            way become largest; None where nothing is.
        above: bytes beyond what is loaded.
        parts: what a call of each part costs.
        unknown: why the cost of some parts is not known, and not counted, by part.
        cures: what to change in the recipe where memory does not suffice.
        steps: of a training, each of `cost.step_seconds`.
        unread: rows of data that are read and encoded at the start, which is not timed.
    """

    cost: Cost
    most: Cost | None = None
    above: int = 0
    parts: Mapping[Part, PartCost] = attrs.field(factory=dict)
    unknown: Mapping[Part, str] = attrs.field(factory=dict)
    cures: tuple[str, ...] = ()
    steps: int = 0
    unread: int = 0

    def times(self, number: float) -> Plan:
        """Of so many times the samples, made one after the other: their memory stays the same."""
        most = self.most and _times(self.most, number)
        return attrs.evolve(self, cost=_times(self.cost, number), most=most)


def _times(cost: Cost, number: float) -> Cost:
    flops, seconds = round(cost.flops * number), cost.seconds * number
    return attrs.evolve(_calls(cost, number), flops=flops, seconds=seconds, memory=cost.memory)


class NoPlanError(AlignError):
    """Nothing is known of an arm before it runs; the message says why."""


@final
@attrs.define(eq=False)
class Planner:
    """Plans the arms of a run; parts that arms share are measured once.

    A part is called with at most three rows in the ways that the mode asks it for, and with more
    where that takes no time. Nobody is charged for these calls, and they use no random numbers.

    Attributes:
        terms: the [[reward]] tables of the recipe.
        trains: whether models may be trained a little, which changes their weights.
        on_part: is called with the name of a part before it is measured.
    """

    terms: Sequence[RewardTerm] = ()
    on_part: Callable[[str], None] = lambda name: None
    trains: bool = False
    _measured: list[tuple[ModelSpec | None, Part, PartCost | str]] = attrs.field(factory=list)
    _studied: list[Arm] = attrs.field(factory=list)
    _planned: list[tuple[object, Plan]] = attrs.field(factory=list)

    def plan(self, built: Built) -> Plan:
        """What an arm that is ready to run will cost.

        Raises:
            NoPlanError: it trains and may not, or its mode cannot be rehearsed.
        """
        arm = built.arm
        if isinstance(arm.mode, Trainable):
            return self._of_training(built)
        if isinstance(arm.mode, TiltCheck):
            raise NoPlanError(
                "makes base samples, whose number is not that of the samples, and is not planned"
            )
        asking = _asking(built)
        for other, plan in reversed(self._planned):
            if other == asking:
                return plan
        plan = self._of_samples(built)
        if not isinstance(arm.mode, Study):  # which may go on from an earlier one
            self._planned.append((asking, plan))
        return plan

    def _of_samples(self, built: Built) -> Plan:
        """What an arm costs that makes samples, or a study."""
        arm = built.arm
        mode, data = with_few_rows(arm.mode)
        built = attrs.evolve(built, arm=attrs.evolve(arm, mode=mode))
        continues = isinstance(arm.mode, Study) and any(
            shared_steps(arm, before) for before in self._studied
        )
        self._studied.append(arm)
        with _nothing_drawn():
            flat, steep = (
                _rehearsed(built, steep=steep, continues=continues) for steep in (False, True)
            )
            parts, unknown = self._costs(built, flat)
        most = None
        if steep.counts.calls != flat.counts.calls:
            most = _cost(built, steep, parts)[0]
        cost, above = _cost(built, flat, parts)
        return Plan(
            cost=cost,
            most=most,
            above=above,
            parts=parts,
            unknown=unknown,
            cures=_cures(built, flat, self.terms, above),
            unread=rows_of(data),
        )

    def _of_training(self, built: Built) -> Plan:
        """What a training costs; it is begun with little data, and a few of its steps are taken."""
        mode, problem, parts = built.arm.mode, built.problem, dict[Part, PartCost]()
        if not self.trains:
            raise NoPlanError("trains; `align plan` says what that costs")
        if not isinstance(mode, TrainingMode):
            raise NoPlanError("trains in steps of its own, which are not planned")
        if isinstance(guarded(problem.model).inner, Sketch):
            raise NoPlanError("trains, and the model's weights are not here")

        def cost_of(part: Part, rows: float) -> PartCost | str:
            decoded = parts[_DECODE].row_shape if _DECODE in parts else None
            at_once = min(problem.chunks.cap, math.ceil(rows))
            cost = self._cost_of(built, part, False, Use(at_once, rows), decoded)
            if isinstance(cost, PartCost):
                parts[part] = cost
            return cost

        def seconds_of(part: Part, rows: float) -> float:
            if rows <= 0 or isinstance(cost := cost_of(part, rows), str):
                return 0.0
            pieces = math.ceil(rows / problem.chunks.cap)
            return pieces * cost.forward.duration(rows / pieces)

        with _nothing_drawn():
            if "model" in mode.needs and seconds_of(("model", "velocity"), 1) > _SLOW_ROW:
                raise NoPlanError("trains a network that is too slow here for a step to be tried")
            try:
                found = training_cost(mode, problem, built.streams, built.meter, seconds_of)
            except Exception as error:  # of anybody's part; the run itself says what is wrong
                text = str(error) or type(error).__name__
                raise NoPlanError(f"its first step cannot be tried: {text}") from error
        fits = problem.chunks.memory is None or found.above <= problem.chunks.memory.free()
        return Plan(
            cost=found.cost,
            above=found.above,
            parts=parts,
            cures=() if fits else ("a larger mode.optimisation.grad_accumulation",),
            steps=mode.steps,
            unread=found.unread,
        )

    def _costs(
        self, built: Built, rehearsal: Rehearsal
    ) -> tuple[dict[Part, PartCost], dict[Part, str]]:
        """What a call of each part costs that is asked for, and why others are not known."""
        asked: dict[Part, bool] = {_DECODE: False}  # rewards are given what it makes
        for call in (*rehearsal.counts.asked, *rehearsal.shared.asked):
            asked[call.part] = asked.get(call.part, False) or call.graph
        times, uses = len(built.streams.samples) / rehearsal.samples, dict[Part, Use]()
        calls = [(call, n, times * call.rows) for call, n in rehearsal.counts.asked.items()]
        calls += [(call, n, call.rows) for call, n in rehearsal.shared.asked.items()]
        for call, number, rows in calls:
            use = uses.get(call.part, Use(1))
            at_once = max(use.at_once, min(built.problem.chunks.cap, math.ceil(rows)))
            uses[call.part] = Use(at_once, use.in_all + number * rows)
        parts, unknown = dict[Part, PartCost](), dict[Part, str]()
        for part, gradient in asked.items():
            decoded = parts[_DECODE].row_shape if _DECODE in parts else None
            known = self._cost_of(built, part, gradient, uses.get(part, Use(1)), decoded)
            if isinstance(known, str):
                unknown[part] = known
            else:
                parts[part] = known
        return parts, unknown

    def _cost_of(
        self, built: Built, part: Part, gradient: bool, use: Use, decoded: tuple[int, ...] | None
    ) -> PartCost | str:
        """What a call of a part costs, or why that is not known; measured once."""
        spec = built.arm.model if part[0] == "model" else None
        for other, name, cost in reversed(self._measured):
            if name == part and other == spec and (isinstance(cost, str) or cost.serves(gradient)):
                return cost
        self.on_part(part[1])
        known: PartCost | str = _EXTERNAL
        if not any(part == ("reward", t.name) and t.part.external for t in self.terms):
            known = _measured(built.problem, part, gradient, use, decoded)
        self._measured.append((spec, part, known))
        return known


def _rehearsed(built: Built, *, steep: bool, continues: bool) -> Rehearsal:
    """Raises NoPlanError where the mode cannot be rehearsed."""
    arm = built.arm
    try:
        return rehearse(arm.mode, built.problem, built.streams, steep=steep, continues=continues)
    except Exception as error:  # of anybody's mode; the run itself says what is wrong
        raise NoPlanError(
            f"cannot be gone through with stand-ins for its parts: {error}"
        ) from error


def _asking(built: Built) -> object:
    """What two arms are alike in that ask the same of equal parts: weights do not matter, but 0."""
    weighed = tuple(term.weight != 0 for term in built.problem.reward.terms)
    parts = attrs.evolve(built.arm, name="", weights=None, factors=None)
    return parts, len(built.streams.samples), weighed


@contextmanager
def _nothing_drawn() -> Iterator[None]:
    """Parts that draw from torch's own generators find them afterwards as they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        yield


def _measured(
    problem: Problem, part: Part, gradient: bool, use: Use, decoded: tuple[int, ...] | None
) -> PartCost | str:
    """What a call of a part costs, or why that is not known.

    Args:
        problem: has the part.
        part: is called.
        gradient: whether it is differentiated too.
        use: what the run asks of it.
        decoded: shape of a row of data, if it is known.
    """
    try:
        if part[0] == "reward":
            term = next(term for term in problem.reward.terms if term.name == part[1])
            if term.compares:
                return "comparisons are not measured"
            shape = problem.model.shape if term.latent else decoded
            if shape is None:
                return "what the model decodes is not known"
            inputs, call = _of_reward(problem, term.reward, shape)
            return part_cost(call, inputs, gradient=gradient, use=use)
        model = guarded(problem.model)
        if isinstance(model.inner, Sketch):
            return model.inner.cost(part[1], problem.cond, gradient)
        inputs, call = _of_model(problem, part[1])
        return part_cost(call, inputs, gradient=gradient, use=use)
    except Exception as error:  # of anybody's part; the run itself says what is wrong
        return str(error) or type(error).__name__


def _of_model(problem: Problem, method: str) -> tuple[Callable[[int], Tensor], Call]:
    """States for a method of the model, and the method."""
    model = guarded(problem.model)

    def inputs(rows: int) -> Tensor:
        numbers = Streams(0, tuple(range(rows)), ("plan",), model.device)
        return numbers.normal(model.shape).to(model.device, model.dtype)

    def call(x: Tensor, meter: Meter) -> Tensor:
        guard = GuardedModel(model.inner, model.name, meter, _ALL)
        return called(guard, method, x, _first(problem.cond, len(x)))

    return inputs, call


def _of_reward(
    problem: Problem, own: Reward, shape: tuple[int, ...]
) -> tuple[Callable[[int], Tensor], Call]:
    """Data of this shape for a reward, and the reward."""
    model = guarded(problem.model)

    def inputs(rows: int) -> Tensor:
        numbers = Streams(0, tuple(range(rows)), ("plan", "data"), model.device)
        return numbers.uniform(shape).to(model.device, model.dtype)

    def call(x: Tensor, meter: Meter) -> Tensor:
        reward = (
            attrs.evolve(own, meter=meter, chunks=_ALL) if isinstance(own, GuardedReward) else own
        )
        return reward.score(x, _first(problem.cond, len(x)).prompts)

    return inputs, call


def _first(cond: Condition, rows: int) -> Condition:
    """The first rows of a condition, in turn where it has fewer."""
    return cond.rows(torch.arange(rows) % len(cond))


def _cost(built: Built, rehearsal: Rehearsal, parts: Mapping[Part, PartCost]) -> tuple[Cost, int]:
    """The cost of an arm, and the bytes that come on top of what is loaded.

    It has no seconds where those of a part that is asked for are not known.
    """
    times, device = len(built.streams.samples) / rehearsal.samples, built.problem.model.device
    at_once = _rows_at_once(built, rehearsal, parts)
    seconds, flops = rehearsal.own_seconds, 0.0
    asked = [(call, number, call.rows * times) for call, number in rehearsal.counts.asked.items()]
    asked += [(call, number, call.rows) for call, number in rehearsal.shared.asked.items()]
    for call, number, rows in asked:
        if (part := parts.get(call.part)) is None:
            continue
        passed = part.cost(gradient=call.graph)
        pieces = math.ceil(rows / max(1, at_once(call)))
        seconds += number * pieces * passed.duration(rows / pieces)
        flops += number * rows * part.forward.flops.slope * (2 if call.graph else 1)
    above = times * rehearsal.own_bytes + rehearsal.peak(parts, at_once)
    cost = attrs.evolve(
        _calls(rehearsal.counts, times, rehearsal.shared),
        flops=round(flops),
        seconds=seconds if _all_timed([call for call, _, _ in asked], parts) else 0.0,
        memory=round(memory_now(device) + above),
    )
    return cost, round(above)


def _all_timed(calls: Sequence[Asked], parts: Mapping[Part, PartCost]) -> bool:
    """Whether each part that is asked for was called, and not derived from shapes or unknown."""
    return all(call.part in parts and parts[call.part].how == "measured" for call in calls)


def _calls(counts: Counts | Cost, times: float = 1.0, shared: Counts | None = None) -> Cost:
    """The calls among `counts`, so many times, those of `shared` once, and no other cost."""
    shared = shared or Counts()

    def scaled(rows: Mapping[str, int], once: Counter[str]) -> dict[str, int]:
        return {part: round(times * rows.get(part, 0)) + once[part] for part in {**rows, **once}}

    return Cost(
        calls=scaled(counts.calls, shared.calls),
        backward=scaled(counts.backward, shared.backward),
        reward_calls=scaled(counts.reward_calls, shared.reward_calls),
        reward_backward=scaled(counts.reward_backward, shared.reward_backward),
    )


def _rows_at_once(
    built: Built, rehearsal: Rehearsal, parts: Mapping[Part, PartCost]
) -> Callable[[Asked], int]:
    """How many rows are in memory at once for a call of the rehearsal: as `Chunks` will have it."""
    times = len(built.streams.samples) / rehearsal.samples
    chunks = built.problem.chunks
    room = chunks.memory.free() if chunks.memory else math.inf

    one, two = rehearsal.peak(parts, lambda _: 1), rehearsal.peak(parts, lambda _: 2)
    followed = fitting(chunks.cap, 2 * one - two, two - one, room)

    def at_once(call: Asked) -> int:
        rows = math.ceil(call.rows * times)
        if call.graph or (part := parts.get(call.part)) is None:
            return min(rows, followed)
        peak = part.forward.peak
        return min(rows, fitting(chunks.cap, peak.fixed, peak.slope, room))

    return at_once


def _cures(
    built: Built, rehearsal: Rehearsal, terms: Sequence[RewardTerm], above: int
) -> tuple[str, ...]:
    """What to change where memory does not suffice, however few rows are in it at once."""
    memory = built.problem.chunks.memory
    if memory is None or above <= (room := memory.free()):
        return ()
    if rehearsal.own_bytes * len(built.streams.samples) / rehearsal.samples > room:
        return ("fewer of run.samples, estimator.draws or mode.particles",)
    on_cuda = built.problem.model.device.type == "cuda"
    cures = [f"model.{text}" for text in _savings(built.arm.model)]
    for number, term in enumerate(terms):
        cures += [f"reward[{number}].{text}" for text in _savings(term.part)]
        if on_cuda and not term.offload:
            cures.append(f"reward[{number}].offload = true")
    return tuple(cures) or ("a smaller model or reward",)


def _savings(part: ModelSpec | RewardSpec | None) -> Iterator[str]:
    """Options of a part that take less memory than as they are."""
    for name in attrs.fields_dict(type(part)) if part else ():
        value = getattr(part, name)
        if name.endswith("dtype") and value == "float32":
            yield f'{name} = "bfloat16"'
        if name in ("recompute", "slice") and value is False:
            yield f"{name} = true"


@final
@attrs.frozen(kw_only=True)
class ArmPlan:
    """An arm with its plan, or with why there is none."""

    name: str
    plan: Plan | None
    reason: str = ""


@final
@attrs.frozen(kw_only=True)
class RecipePlan:
    """The plans of a recipe's arms, and of the unsteered samples that it draws first.

    Attributes:
        prices: money that a score costs, by the reward's name, where it costs any.
        notes: what must be said beside the numbers.
    """

    arms: tuple[ArmPlan, ...]
    prices: Mapping[str, float] = attrs.field(factory=dict)
    notes: tuple[str, ...] = ()

    def all_notes(self) -> tuple[str, ...]:
        """What is not known and why, what to change, and what else must be said."""
        notes = dict[str, None]()
        for arm in self.arms:
            if arm.plan is None:
                notes[f"{arm.name}: {arm.reason}"] = None
                continue
            if steps := arm.plan.steps:
                each = readable_seconds(arm.plan.cost.step_seconds)
                notes[f"{arm.name}: {number_of(steps, 'step')}, each about {each}"] = None
            if unread := arm.plan.unread:
                rows = number_of(unread, "row")
                notes[f"{arm.name}: reading and encoding {rows} of data is not timed"] = None
            for (_, name), reason in arm.plan.unknown.items():
                notes[f"{name}: not counted in FLOP and memory, and not timed: {reason}"] = None
            if arm.plan.cures:
                helps = ", or ".join(arm.plan.cures)
                notes[f"{arm.name}: memory does not suffice; what helps: {helps}"] = None
        return (*notes, *self.notes)


def arm_rows(planned: RecipePlan) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows of a table with a row an arm, and their sum where there are several."""
    heads: tuple[str, ...] = ("arm", "NFE", "rewards", "decoder", "FLOP", "time", "memory")
    prices = planned.prices
    heads += ("price",) if prices else ()
    rows = list[tuple[str, ...]]()
    known = [arm.plan for arm in planned.arms if arm.plan]
    for arm in planned.arms:
        if arm.plan is None:
            rows.append((arm.name, *["?"] * (len(heads) - 1)))
        else:
            cost, most = arm.plan.cost, arm.plan.most
            cells = (*_cells(cost, most), readable(arm.plan.above))
            rows.append((arm.name, *cells, *_price(cost, most, prices)))
    if len(known) > 1:
        least = _sum([plan.cost for plan in known])
        most = _sum([plan.most or plan.cost for plan in known])
        above = readable(max(plan.above for plan in known))
        range_to = most if most != least else None
        cells = (*_cells(least, range_to), above, *_price(least, range_to, prices))
        rows.append(("all together", *cells))
    return heads, rows


def _sum(costs: Sequence[Cost]) -> Cost:
    """The calls, operations and seconds of several arms together; no seconds where one has none."""
    total = Counts()
    for cost in costs:
        total = total.plus(
            Counts(
                calls=Counter(cost.calls),
                backward=Counter(cost.backward),
                reward_calls=Counter(cost.reward_calls),
                reward_backward=Counter(cost.reward_backward),
            )
        )
    return attrs.evolve(
        _calls(total),
        flops=sum(cost.flops for cost in costs),
        seconds=sum(cost.seconds for cost in costs) if all(c.seconds for c in costs) else 0.0,
    )


def _price(cost: Cost, most: Cost | None, prices: Mapping[str, float]) -> tuple[str, ...]:
    """What scores cost in money; nothing where none costs any."""
    return (_both(cost, most, lambda c: f"{c.price(prices):.4g}"),) if prices else ()


def _both(cost: Cost, most: Cost | None, number: Callable[[Cost], str]) -> str:
    """A number of the least and of the most cost, once where they are alike."""
    texts = [number(cost), *([number(most)] if most else [])]
    return " to ".join(dict.fromkeys(texts))


def _cells(cost: Cost, most: Cost | None) -> tuple[str, ...]:
    both = partial(_both, cost, most)
    return (
        both(lambda c: f"{c.nfe:,}"),
        both(lambda c: f"{c.rewards:,}"),
        both(lambda c: f"{c.calls.get('decoder', 0) + c.backward.get('decoder', 0):,}"),
        both(lambda c: f"{c.flops:.2g}" if c.flops else "-"),
        both(lambda c: readable_seconds(c.seconds) if c.seconds else "-"),
    )


def part_rows(planned: RecipePlan) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows of a table of what a row of each part costs."""
    heads = ("a row of", "how", "GFLOP", "ms", "ms there and back", "memory", "there and back")
    parts = dict[str, PartCost]()
    for arm in planned.arms:
        for (contract, name), cost in (arm.plan.parts if arm.plan else {}).items():
            shown = name if contract == "model" else f"reward {name}"
            if shown not in parts or cost.way_back:
                parts[shown] = cost
    rows = list[tuple[str, ...]]()
    for name, cost in parts.items():
        forward, back = cost.forward, cost.way_back
        rows.append(
            (
                name,
                cost.how,
                f"{forward.flops.slope / 1e9:.3g}",
                _milliseconds(forward),
                _milliseconds(back) if back else "-",
                readable(forward.peak.of(1)),
                readable(back.peak.of(1)) if back else "-",
            )
        )
    return heads, rows


def _milliseconds(cost: PassCost) -> str:
    """Of a row among 16."""
    return f"{1e3 * cost.seconds.of(16) / 16:.3g}" if cost.seconds.slope else "-"


def plan_recipe(
    recipe: Recipe, on_part: Callable[[str], None] = lambda name: None, *, ready: bool = False
) -> RecipePlan:
    """What a recipe's arms would cost here; nothing is downloaded, and nothing is sampled.

    Where weights are not there, costs are derived from shapes, if the model knows them.

    Args:
        recipe: the recipe.
        on_part: is called with the name of a part before it is measured.
        ready: whether every arm must be ready to run; what cannot be built here is an error then.

    Raises:
        AlignError: an arm is not ready that must be.
    """
    notes = list[str]()
    run, planner = recipe.run, Planner(recipe.reward, on_part, trains=True)
    if run.device == "cuda" and not torch.cuda.is_available() and not ready:
        notes.append("There is no CUDA device here: what is measured is measured on the CPU.")
        run = attrs.evolve(run, device="auto")
    rewards = Rewards(
        tuple(attrs.evolve(term, part=_offline(term.part)) for term in recipe.reward),
        device_of(run.device),
        None if ready else _Unloaded,
    )
    arms = list[ArmPlan]()
    models = list[tuple[ModelSpec | None, FlowModel | None]]()
    for arm in (*_unsteered(recipe), *recipe.arms()):
        trains = isinstance(arm.mode, Trainable)
        try:
            known = [] if trains else [model for spec, model in models if spec == arm.model]
            model = known[0] if known else _model(arm.model, rewards.device, sketched=not ready)
            models += [] if known or trains else [(arm.model, model)]
            built = build(arm, rewards, run, model)
            if arm.name == UNSTEERED:
                built = _of_unsteered(built, run)
            arms.append(ArmPlan(name=arm.name, plan=planner.plan(built)))
        except AlignError as error:
            if ready and not isinstance(error, NoPlanError):
                raise
            arms.append(ArmPlan(name=arm.name, plan=None, reason=str(error)))
    notes += [
        f"model '{spec.kind}': no weights are here; bytes and operations are derived from"
        f" {model.weights / 1e9:.3g} GB of weights without numbers, and nothing is timed."
        for spec, model in models
        if spec is not None and isinstance(model, Sketch)
    ]
    prices = {t.name: t.part.price_per_score for t in recipe.reward if t.part.price_per_score}
    return RecipePlan(arms=tuple(arms), prices=prices, notes=tuple(notes))


UNSTEERED: Final = "(unsteered samples)"
"""Name of what a recipe draws before its arms; no arm can have it, as it has brackets."""


def _unsteered(recipe: Recipe) -> tuple[Arm, ...]:
    """Unsteered samples as arms, one for each model that they are drawn of."""
    arms = tuple[Arm, ...]() if not recipe.run.unsteered else arms_with_bases(recipe)
    steps = {arm.model: flow_steps_of(recipe, arm.model) for arm in arms}
    return tuple(
        Arm(
            name=UNSTEERED,
            model=arm.model,
            sampler=None,
            estimator=None,
            mode=BestOfN(n=1, flow_steps=steps[arm.model]),
        )
        for arm in arms
    )


def _of_unsteered(built: Built, run: Run) -> Built:
    """An arm with the numbers and the noise of unsteered samples."""
    numbers, device = tuple(range(run.unsteered)), built.problem.model.device
    streams = Streams(run.seed, numbers, ("unsteered",), device)
    problem = attrs.evolve(built.problem, cond=built.problem.condition(numbers))
    return attrs.evolve(built, streams=streams, problem=problem)


def _offline(part: Any) -> Any:
    """A part that downloads nothing."""
    return attrs.evolve(part, offline=True) if hasattr(part, "offline") else part


def _model(spec: ModelSpec | None, device: torch.device, *, sketched: bool) -> FlowModel | None:
    """The model, or, if it may be `sketched`, a sketch of it where its weights are not here.

    Raises:
        PartError: it is neither here nor known without its weights.
    """
    if spec is None:
        return None
    try:
        return build_model(_offline(spec), device)
    except PartError:
        if not sketched or (sketch := spec.sketch(device)) is None:
            raise
        return Sketch(*sketch)


@final
@attrs.frozen(eq=False)
class _Unloaded(Reward):
    """A reward that is not here.

    Attributes:
        reason: why it is not.
    """

    reason: str

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """Raises PartError."""
        raise PartError(self.reason)


def summary(plan: Plan) -> str:
    """A plan in a line of at most 80 letters."""
    cost, least = plan.cost, "at least " if plan.unknown else ""
    calls = f"{cost.nfe:,}" + (f" to {plan.most.nfe:,}" if plan.most else "")
    duration = f", about {readable_seconds(cost.seconds)}" if cost.seconds else ""
    flops = f", {cost.flops:.2g} FLOP" if cost.flops else ""
    memory = f"{least}{readable(plan.above)} of memory beside what is loaded"
    return f"NFE {calls}{flops}{duration}, {memory}"


def readable_seconds(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
