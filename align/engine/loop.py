"""The loop of every run: steps, costs, checkpoints, and what observers are told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, final

import attrs
import torch
from torch import Tensor

from align.core.attribution import attributed, seen
from align.core.checks import checks_read_once
from align.core.errors import ContractError, DivergedError, PartError, UserInterrupt
from align.core.mode import AlignmentMode, Continues, Info, Trainable
from align.core.problem import Problem
from align.core.streams import Streams
from align.core.study import Study
from align.engine.flops import counted
from align.engine.meter import Cost, Meter, forget_peak
from align.io.text import number_of

State = TypeVar("State")


class Observer(ABC):
    """Is told how a run goes on."""

    @abstractmethod
    def step(self, index: int, steps: int, state: object, info: Info) -> None:
        """Step `index` of `steps` is done."""

    @abstractmethod
    def due(self, index: int) -> bool:
        """Whether a checkpoint after step `index` is wanted."""

    @abstractmethod
    def stopping(self) -> bool:
        """Whether the run was asked to stop after this step."""

    @abstractmethod
    def checkpoint(self, saved: dict[str, Any]) -> None:
        """Keep what a resumed run starts from."""


@final
@attrs.frozen(eq=False)
class Outcome:
    """How a run ended: clean states (B, *S) or None, the last state, and the cost."""

    x1: Tensor | None
    state: object
    cost: Cost


@final
@attrs.frozen(eq=False)
class Earlier:
    """Where an earlier run ended, for a later one that goes on from there.

    Attributes:
        state: its last one.
        infos: of its steps, where these are the first ones of the later run.
        meter: what its meter had counted, as `Meter.save` says it.
    """

    state: object
    infos: Sequence[Info] = ()
    meter: Mapping[str, Any] = attrs.field(factory=dict)


def execute(
    mode: AlignmentMode[State],
    problem: Problem,
    streams: Streams,
    *,
    meter: Meter,
    observer: Observer,
    saved: dict[str, Any] | None = None,
    last: Earlier | None = None,
) -> Outcome:
    """Run a mode from start to end, or from where `saved` was.

    A mode that trains is checkpointed when the observer asks, when it is interrupted, and at its
    end; what is saved is enough to go on exactly as if nothing had happened. A study may begin
    with the `last` state of the same study of the same model, and a mode that `Continues` where
    another one ended; the steps of that one are told and charged as if they were taken again.
    """
    forget_peak(streams.device)
    state, first, kept = _begun(mode, problem, streams, last), 0, ""
    flops: int | None = None
    if last is not None and isinstance(mode, Continues):
        first = _told(last, mode.steps, meter, observer)
    if saved is not None and isinstance(mode, Trainable):
        mode.restore(state, saved["state"])
        meter.restore(saved["meter"])
        first, flops, kept = int(saved["done"]), saved.get("flops"), _kept(int(saved["done"]))
    for index in range(first, mode.steps):
        if flops is None and isinstance(mode, Trainable):
            # Counting can change the last bits of a gradient: a resumed run does not count again.
            with meter.step_timed(slow=True), counted() as counter:
                state, info = _step(mode, problem, state, index, streams, kept)
            flops = counter.total
        else:
            with meter.step_timed():
                state, info = _step(mode, problem, state, index, streams, kept)
        observer.step(index, mode.steps, state, info)
        done, stopping = index + 1, observer.stopping()
        if isinstance(mode, Trainable) and (stopping or done == mode.steps or observer.due(index)):
            checkpoint = {"done": done, "flops": flops, "meter": meter.save(streams.device)}
            observer.checkpoint({**checkpoint, "state": mode.save(state)})
            kept = _kept(done)
        if stopping:
            raise UserInterrupt
    if flops is not None:
        meter.step_flops = flops * mode.steps
    with torch.no_grad(), attributed(f"mode '{mode.kind}': finish"):
        x1 = _checked(mode.finish(problem, state), problem, mode.kind)
    return Outcome(x1, state, meter.cost(streams.device))


def _begun(
    mode: AlignmentMode[State], problem: Problem, streams: Streams, last: Earlier | None
) -> State:
    """The state before the first step that is taken."""
    state: Any = last.state if last is not None else None
    with attributed(f"mode '{mode.kind}': init"):
        if last is not None and isinstance(mode, Study):
            state = mode.restart(state)
        elif last is None or not isinstance(mode, Continues):
            state = mode.init(problem, streams)
    begun: State = state
    return begun


def _told(last: Earlier, steps: int, meter: Meter, observer: Observer) -> int:
    """Tell and charge the steps of an earlier run; returns how many there are."""
    meter.restore(last.meter)
    for index, info in enumerate(last.infos):
        observer.step(index, steps, last.state, info)
    return len(last.infos)


def _kept(done: int) -> str:
    """What is said of the last checkpoint where training diverges."""
    return f"; the checkpoint after {number_of(done, 'step')} is kept"


def _step(
    mode: AlignmentMode[State],
    problem: Problem,
    state: State,
    index: int,
    streams: Streams,
    kept: str,
) -> tuple[State, Info]:
    """One step; an error says which."""
    where = f"in step {index + 1} of {mode.steps}"
    try:
        with attributed(f"mode '{mode.kind}': step"), checks_read_once():
            state, info = mode.step(problem, state, index, streams)
            if not isinstance(info, Info):
                got = seen(info)
                raise ContractError(f"mode '{mode.kind}': step returned {got}, expected an Info")
            return state, info
    except DivergedError as error:
        raise DivergedError(f"{error}; {where}{kept}") from error
    except (ContractError, PartError) as error:
        raise type(error)(f"{error}; {where}") from error


def _checked(x1: Tensor | None, problem: Problem, kind: str) -> Tensor | None:
    """The samples that a mode ends in, if they are states of the model."""
    shape = problem.model.shape
    if x1 is not None and (not isinstance(x1, Tensor) or shape not in ((), x1.shape[1:])):
        got = tuple(x1.shape) if isinstance(x1, Tensor) else seen(x1)
        raise ContractError(f"mode '{kind}': finish returned {got}, expected rows of {shape}")
    return x1
