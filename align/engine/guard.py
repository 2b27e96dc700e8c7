"""Between the engine and the parts: counts every call, cuts it into chunks, checks what returns.

A part that breaks its contract is named, with what it returned and what was expected.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

import attrs
import torch
from torch import Tensor

from align.core.errors import AlignError, ContractError, DivergedError, PartError
from align.core.model import (
    Able,
    Condition,
    Domain,
    FlowMap,
    FlowModel,
    NoisyState,
    PosteriorMap,
)
from align.core.path import Path
from align.core.reward import Reward
from align.engine.meter import Meter

# How far from [0, 1] pictures may be before they, and not the reward, are to blame.
_FAR: Final = 1.0


def _of_inner(name: str) -> Any:
    """A field that has the value which the inner model's attribute has."""
    value = attrs.Factory(lambda self: getattr(self.inner, name), takes_self=True)
    return attrs.field(init=False, default=value)


@final
@attrs.frozen(eq=False)
class GuardedModel(FlowModel):
    """A model whose every call is counted, chunked and checked.

    Args:
        inner: the model.
        name: its kind, for messages.
        meter: where calls are counted.
        chunk: most rows that go through a network at once.
    """

    inner: FlowModel
    name: str
    meter: Meter
    chunk: int

    path: Path = _of_inner("path")
    shape: tuple[int, ...] = _of_inner("shape")
    domain: Domain = _of_inner("domain")
    dtype: torch.dtype = _of_inner("dtype")
    device: torch.device = _of_inner("device")

    def encode(self, prompts: Sequence[str]) -> Condition:
        """The inner model's condition."""
        return self.inner.encode(prompts)

    def velocity(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The inner model's velocity (B, *S)."""

        def call(rows: slice) -> Tensor:
            return self.inner.velocity(x[rows], t[rows], cond.rows(rows))

        return self.network("velocity", call, x)

    def decode(self, x1: Tensor) -> Tensor:
        """The inner model's decoding of (B, *S)."""
        dims, who = {"image": 4, "vector": 2}[self.domain], f"model '{self.name}': decode"

        def call(rows: slice) -> Tensor:
            data, count = self.inner.decode(x1[rows]), len(x1[rows])
            shape = data.shape if isinstance(data, Tensor) else ()
            if len(shape) != dims or shape[0] != count or not data.is_floating_point():
                raise ContractError(
                    f"{who} returned {_described(data)},"
                    f" expected {count} rows of kind '{self.domain}'"
                )
            return _finite(data, who, given=x1[rows])

        return self._chunked("decoder", call, len(x1))

    def capability(self, kind: type[Able]) -> Able | None:
        """What the inner model can do; maps, which call a network, come back under this guard."""
        part = self.inner.capability(kind)
        guarded: object = part
        if kind is FlowMap and isinstance(part, FlowMap):
            guarded = _GuardedFlowMap(self, part)
        elif kind is PosteriorMap and isinstance(part, PosteriorMap):
            guarded = _GuardedPosteriorMap(self, part)
        return guarded if isinstance(guarded, kind) else None

    def network(self, what: str, call: Callable[[slice], Tensor], like: Tensor) -> Tensor:
        """The result of `call`, one network call a row, which must look like `like` (B, *S)."""

        def checked(rows: slice) -> Tensor:
            return self._like(what, call(rows), like[rows])

        return self._chunked("network", checked, len(like))

    def _chunked(self, part: str, call: Callable[[slice], Tensor], rows: int) -> Tensor:
        starts = range(0, rows, self.chunk)
        cuts = [slice(start, min(start + self.chunk, rows)) for start in starts]
        pieces = list[Tensor]()
        for cut in cuts:
            with _attribute_errors(f"model '{self.name}'", count := cut.stop - cut.start):
                pieces.append(self.meter.measured(part, count, functools.partial(call, cut)))
        result = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return self.meter.count(part, result)

    def _like(self, what: str, result: Tensor, like: Tensor) -> Tensor:
        who = f"model '{self.name}': {what}"
        if (
            not isinstance(result, Tensor)
            or result.shape != like.shape
            or result.dtype != like.dtype
        ):
            raise ContractError(
                f"{who} returned {_described(result)}, expected {_described(like)} like its state"
            )
        return _finite(result, who, given=like)


@final
@attrs.frozen(eq=False)
class _GuardedFlowMap(FlowMap):
    """A flow map whose jumps are counted, chunked and checked by its model's guard."""

    guard: GuardedModel
    inner: FlowMap

    def jump(self, x: Tensor, s: Tensor, u: Tensor, cond: Condition) -> Tensor:
        """The inner flow map (B, *S)."""

        def call(rows: slice) -> Tensor:
            return self.inner.jump(x[rows], s[rows], u[rows], cond.rows(rows))

        return self.guard.network("jump", call, x)


@final
@attrs.frozen(eq=False)
class _GuardedPosteriorMap(PosteriorMap):
    """A meta flow map whose jumps are counted, chunked and checked by its model's guard."""

    guard: GuardedModel
    inner: PosteriorMap

    def posterior_jump(self, y: Tensor, s: Tensor, u: Tensor, noisy: NoisyState) -> Tensor:
        """The inner meta flow map (B, *S)."""

        def call(rows: slice) -> Tensor:
            return self.inner.posterior_jump(y[rows], s[rows], u[rows], noisy.rows(rows))

        return self.guard.network("posterior_jump", call, y)


@final
@attrs.frozen(eq=False)
class GuardedReward(Reward):
    """A reward whose every call is counted, chunked and checked.

    Args:
        inner: the reward.
        name: its name in the run, for messages and the meter.
        meter: where calls are counted.
        chunk: most rows that are scored at once.
    """

    inner: Reward
    name: str
    meter: Meter
    chunk: int

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """The inner reward's score (B,)."""
        tally, pieces = self.meter.rewards, []
        for start in range(0, len(data), self.chunk):
            rows = slice(start, start + self.chunk)
            call = functools.partial(self._checked, data[rows], prompts[rows])
            pieces.append(tally.measured(self.name, len(data[rows]), call))
        return tally.count(self.name, torch.cat(pieces))

    def capability(self, kind: type[Able]) -> Able | None:
        """What the inner reward can do; none of it costs a call."""
        return self.inner.capability(kind)

    def _checked(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        who = f"reward '{self.name}'"
        if data.requires_grad:
            data = data.view_as(data)
            data.register_hook(functools.partial(_finite_slope, who))
        with _attribute_errors(who, len(data), "or offload = true"):
            score = self.inner.score(data, prompts)
        floating = isinstance(score, Tensor) and score.dtype in (torch.float32, torch.float64)
        if not floating or score.shape != (len(data),):
            raise ContractError(
                f"{who}: score returned {_described(score)},"
                f" expected ({len(data)},) of torch.float32 or wider"
            )
        return _finite(score, f"{who}: score", functools.partial(_why, data))


def guarded(model: FlowModel) -> GuardedModel:
    """The model under a guard: its own, or else a new one, which counts for nobody."""
    if isinstance(model, GuardedModel):
        return model
    return GuardedModel(model, "model", Meter(), 1 << 20)


def replaced(guarded: FlowModel, model: FlowModel) -> FlowModel:
    """Another model under the guard of `guarded`; the model itself where that has none."""
    return attrs.evolve(guarded, inner=model) if isinstance(guarded, GuardedModel) else model


def _described(result: object) -> str:
    """Shape and type of what a part returned, whatever it is."""
    if isinstance(result, Tensor):
        return f"{tuple(result.shape)} {result.dtype}"
    return f"a {type(result).__name__}"


def _finite(
    result: Tensor, who: str, why: Callable[[], str] = str, given: Tensor | None = None
) -> Tensor:
    """The result of a part, which made it of the states `given`, if these are known.

    Raises:
        ContractError: it is not finite.
        DivergedError: nor were the states, for which the part is not to blame.
    """
    if bad := int((~torch.isfinite(result.detach())).sum()):
        if given is not None and not given.detach().isfinite().all():
            raise DivergedError(
                f"{who} was given states that are not finite any more; lower"
                " mode.optimisation.learning_rate where a network is trained, the weights of the"
                " rewards, or the length of a step by more of them"
            )
        raise ContractError(f"{who} returned {bad} numbers that are not finite{why()}")
    return result


def _finite_slope(who: str, slope: Tensor) -> None:
    if bad := int((~torch.isfinite(slope)).sum()):
        raise ContractError(
            f"{who}: its gradient has {bad} numbers that are not finite; use an estimator that"
            " follows no gradient, like 'stein', and tell the reward's author"
        )


def _why(data: Tensor) -> str:
    """Whether the samples or the reward are to blame for a score that is not finite."""
    low, high = float(data.detach().min()), float(data.detach().max())
    seen = f", for data from {low:.3g} to {high:.3g}; "
    if data.dim() == 4 and (low < -_FAR or high > 1 + _FAR):
        return f"{seen}pictures belong in [0, 1]: lower the weights, or use more steps"
    return f"{seen}take it out of the recipe, and tell the reward's author"


@contextmanager
def _attribute_errors(who: str, rows: int, other: str = "") -> Iterator[None]:
    """Say which part raised an error, and what helps where memory is short.

    Raises:
        PartError: the device has too little memory for `rows` rows.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        fewer = f"set run.chunk to {max(1, rows // 4)} {other}".rstrip()
        text = f"{who}: the device's memory is too small for {rows} rows at once"
        raise PartError(f"{text}; {fewer}") from error
    except AlignError:
        raise
    except Exception as error:
        error.add_note(f"raised by {who}")
        raise
