"""Checks of modes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, final
from unittest import SkipTest

import attrs
import torch
from torch import Tensor

from align.core.estimator import ClosedForm
from align.core.mode import AlignmentMode, Info, ReportsKL, Trainable
from align.core.model import DataSampler, NoModel
from align.core.problem import Problem
from align.core.reward import WeightedReward
from align.core.study import Study
from align.estimators.exact import Exact
from align.estimators.stein import Stein
from align.samplers.exact import ExactPosterior
from align.testing.checks.form import form
from align.testing.distances import w1
from align.testing.probes import close, finite, scaled, streams_of
from align.testing.probes import untouched as unmoved
from align.testing.worlds import line

ROWS: Final = 8
MANY: Final = 2000
SLACK: Final = 0.05  # what an integrator of some tens of steps adds, in deviations of the law


@final
@attrs.frozen(eq=False)
class Ran:
    """What a run left: clean states (B, *S) or None, what each step told, and the last state."""

    x1: Tensor | None
    infos: tuple[Info, ...]
    state: Any


@final
@attrs.frozen(eq=False)
class Running:
    """A mode, and what makes the problem it runs on: afresh, as training changes a model's weights.

    Attributes:
        make: the problem, its prompt being that of the first row of its condition, if it has any.
    """

    part: AlignmentMode[Any]
    make: Callable[[], Problem]

    def on(self, change: Callable[[Problem], Problem]) -> Running:
        """The same on another problem."""
        return attrs.evolve(self, make=lambda: change(self.make()))

    def problem(self, samples: Sequence[int] = range(ROWS)) -> Problem:
        """The problem for these samples."""
        problem = self.make()
        prompts = problem.cond.prompts[:1] or ("",)
        return attrs.evolve(problem, cond=problem.model.encode(prompts * len(samples)))

    def run(
        self, samples: Sequence[int] = range(ROWS), seed: int = 0, first: Any | None = None
    ) -> Ran:
        """From start to end; with a `first` state instead of the mode's own, if one is given."""
        mode, problem = self.part, self.problem(samples)
        streams = streams_of(problem.model, samples, seed)
        state, infos = mode.init(problem, streams) if first is None else first, []
        for index in range(mode.steps):
            state, info = mode.step(problem, state, index, streams)
            infos.append(info)
        with torch.no_grad():
            return Ran(mode.finish(problem, state), tuple(infos), state)

    def samples(self, samples: Sequence[int] = range(ROWS), seed: int = 0) -> Tensor:
        """Clean states (B, *S)."""
        if isinstance(self.part, Study):
            raise SkipTest("it makes no samples")
        x1 = self.run(samples, seed).x1
        if x1 is None:
            raise SkipTest("it makes no samples")
        return x1


def subject(part: AlignmentMode[Any], on: Callable[[], Problem] | None) -> Running:
    """The mode on a problem; on three Gaussians, with estimator 'stein' on four exact draws."""
    return Running(part, on or _line)


def _line() -> Problem:
    return Problem(*line(), sampler=ExactPosterior(), estimator=Stein(draws=4))


def shape(running: Running) -> None:
    """Steps are a positive number; the end is None, or a finite clean state for each sample."""
    steps, model = running.part.steps, running.make().model
    assert type(steps) is int and steps > 0, f"steps is {steps!r}, expected a positive number"
    x1 = running.run().x1
    if x1 is None:
        return
    wanted = (ROWS, *model.shape)
    assert x1.shape == wanted, f"finish makes {tuple(x1.shape)}, expected (B, *S) = {wanted}"
    assert x1.dtype == model.dtype, f"finish makes {x1.dtype}, states are {model.dtype}"
    assert not x1.requires_grad, "samples have a graph"
    finite(x1, "samples")


def numbers(running: Running) -> None:
    """Every step tells plain finite floats, and pictures that can be looked at; so does KL."""
    ran = running.run()
    for index, info in enumerate(ran.infos):
        for name, number in info.numbers.items():
            assert type(number) is float, f"'{name}' is a {type(number).__name__}, not a float"
            assert math.isfinite(number), f"'{name}' is {number} in step {index}"
        if info.pictures is not None:
            found = info.pictures
            assert found.dim() == 4, f"pictures are {tuple(found.shape)}, expected (B, C, H, W)"
            finite(found, "pictures")
    if isinstance(running.part, ReportsKL):
        apart = running.part.path_kl(ran.state)
        fine = apart is None or (type(apart) is float and math.isfinite(apart) and apart >= 0)
        assert fine, f"divergence is {apart!r}, expected None or nats"
        told = not running.part.is_base or apart == 0
        assert told, f"`is_base` says that samples are the base model's, but their KL is {apart!r}"


def repeatable(running: Running) -> None:
    """The same seed gives the same run again, another seed another one."""
    first, again, other = running.run(), running.run(), running.run(seed=1)
    told = [[dict(info.numbers) for info in ran.infos] for ran in (first, again, other)]
    assert told[0] == told[1], "the same seed tells other numbers the second time"
    if first.x1 is not None and again.x1 is not None and other.x1 is not None:
        assert torch.equal(first.x1, again.x1), "the same seed makes other samples again"
        assert not torch.equal(first.x1, other.x1), "another seed makes the same samples"
    else:
        assert told[0] != told[2], "another seed tells the same numbers"


def rows_are_independent(running: Running) -> None:
    """A sample is the same alone, among others and in another order."""
    together = running.samples()
    for rows in ((3,), (5, 2)):
        few = running.samples(rows)
        close(few, together[list(rows)], f"samples {rows} alone, and among {ROWS}")


def random_state(running: Running) -> None:
    """Torch's global random state is left as it was."""
    with unmoved(running.make().model.device, "the mode"):
        running.run()


def needs(running: Running) -> None:
    """It runs with nothing but the parts that it says it needs."""
    wanted = running.part.needs

    def least(problem: Problem) -> Problem:
        estimator = problem.estimator if "estimator" in wanted else None
        drawn = "sampler" in wanted or (estimator is not None and estimator.needs_sampler)
        return attrs.evolve(
            problem,
            model=problem.model if "model" in wanted else NoModel(device=problem.model.device),
            reward=problem.reward if "reward" in wanted else WeightedReward(()),
            sampler=problem.sampler if drawn else None,
            estimator=estimator,
        )

    running.on(least).run()


def resumes(running: Running) -> None:
    """A training run that is interrupted and restored ends as if nothing had happened."""
    mode = running.part
    if not isinstance(mode, Trainable):
        raise SkipTest("it does not train")
    half, told = mode.steps // 2, []
    assert half, "give the mode at least two steps, so that it can be interrupted"
    problem = running.problem()
    streams = streams_of(problem.model, range(ROWS))
    state = mode.init(problem, streams)
    for index in range(half):
        state, _ = mode.step(problem, state, index, streams)
    saved, problem = copy.deepcopy(mode.save(state)), running.problem()
    state = mode.init(problem, streams)
    mode.restore(state, saved)
    for index in range(half, mode.steps):
        state, info = mode.step(problem, state, index, streams)
        told.append(dict(info.numbers))
    whole = [dict(info.numbers) for info in running.run().infos[half:]]
    assert told == whole, "a resumed run tells other numbers than one that was not interrupted"


def findings(running: Running) -> None:
    """A study finds finite numbers, the same in any chunk, and the same when it is restarted."""
    mode = running.part
    if not isinstance(mode, Study):
        raise SkipTest("it is no study")
    ran = running.run()
    found = mode.findings(ran.state)
    assert found.points, "nothing was found"
    for point in found.points:
        number = math.isfinite(point.value) and math.isfinite(point.calls) and point.calls >= 0
        assert number, f"found {point}, which has no finite number"
    chunked = running.on(lambda problem: attrs.evolve(problem, chunks=1))
    others = {"in chunks": chunked.run(), "restarted": running.run(first=mode.restart(ran.state))}
    for said, other in others.items():
        again = mode.findings(other.state).points
        panels = [[point.panel for point in points] for points in (again, found.points)]
        assert panels[0] == panels[1], f"{said}, other circumstances: {panels[0]}, not {panels[1]}"
        value, before = (torch.tensor([p.value for p in ps]) for ps in (again, found.points))
        close(value, before, f"what was found {said}, and before")


def base_law(running: Running) -> None:
    """Without a reward the samples follow the model's own law."""
    model = running.make().model
    law = model.capability(DataSampler)
    if law is None:
        raise SkipTest("the model cannot draw from its own law")
    plain = running.on(lambda p: _exactly(attrs.evolve(p, reward=scaled(p.reward, 0.0))))
    sets = [law.draw(streams_of(model, range(n), s)) for s, n in ((8, 10 * MANY), (9, MANY))]
    _follows(plain.samples(range(MANY)), sets, "the model's law")


def tilted_law(running: Running) -> None:
    """With the exact value the samples follow p*(x) ∝ p(x) e^{r(x)}: no factor is wrong."""
    problem = running.make()
    exact = problem.model.capability(ClosedForm)
    if exact is None:
        raise SkipTest("the model does not know its tilted law")
    sets = [
        exact.draw_tilted(problem.reward, streams_of(problem.model, range(n), seed))
        for seed, n in ((8, 10 * MANY), (9, MANY))
    ]
    _follows(running.on(_exactly).samples(range(MANY)), sets, "the tilted law")


def _exactly(problem: Problem) -> Problem:
    """The problem with the exact value, if it can be had."""
    known = problem.model.capability(ClosedForm)
    return attrs.evolve(problem, estimator=Exact()) if known else problem


def _follows(found: Tensor, sets: list[Tensor], name: str) -> None:
    """Mean W₁ over the coordinates, in deviations of the law, beside that of other exact draws."""
    law, others = sets
    lines = [[x.flatten(1)[:, d] for x in (found, others, law)] for d in range(law[0].numel())]
    far, floor = (
        sum(w1(one[which], one[2]) / float(one[2].std()) for one in lines) / len(lines)
        for which in (0, 1)
    )
    assert far < 1.5 * floor + SLACK, f"W₁ to {name} is {far:.3g}; exact draws have {floor:.3g}"


CHECKS: Final = (
    form,
    shape,
    numbers,
    repeatable,
    rows_are_independent,
    random_state,
    needs,
    resumes,
    findings,
    base_law,
    tilted_law,
)
