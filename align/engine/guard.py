"""Between the engine and the parts: counts every call, cuts it into chunks, checks what returns.

A part that breaks its contract is named, with what it returned and what was expected. It is given
copies, and what it returns is copied: neither a part that writes into its input nor one that uses a
buffer twice can change what others see.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

import attrs
import torch
from torch import Tensor

from align.core.attribution import attributed, check_followed, seen
from align.core.checks import Checks, checks, count_changed, count_not_finite, extent
from align.core.chunks import Chunks, chunks_of, is_out_of_memory, too_small
from align.core.errors import (
    AlignError,
    ContractError,
    DivergedError,
    NotFiniteError,
    OutOfMemoryError,
)
from align.core.estimator import RUNAWAY
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
from align.core.path import Path
from align.core.reward import Compares, Reward
from align.engine.meter import Meter, Tally

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
        chunks: most rows that go through a network at once; a number is the cap.
    """

    inner: FlowModel
    name: str
    meter: Meter
    chunks: Chunks = attrs.field(converter=chunks_of)

    path: Path = _of_inner("path")
    shape: tuple[int, ...] = _of_inner("shape")
    domain: Domain = _of_inner("domain")
    dtype: torch.dtype = _of_inner("dtype")
    device: torch.device = _of_inner("device")

    def encode(self, prompts: Sequence[str]) -> Condition:
        """The inner model's condition."""
        who, count = f"model '{self.name}': encode", len(prompts)
        with attributed(who):
            cond = self.inner.encode(tuple(prompts))
            if not isinstance(cond, Condition):
                raise ContractError(f"{who} returned {seen(cond)}, expected a Condition")
            if {len(cond), *map(len, cond.tensors.values())} != {count}:
                raise ContractError(f"{who} returned another number of rows than {count} prompts")
        return cond

    def velocity(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The inner model's velocity (B, *S)."""
        per_row = self.rows_per_velocity
        return self.network("velocity", self.inner.velocity, x, t, cond=cond, per_row=per_row)

    @property
    def rows_per_velocity(self) -> int:
        """The inner model's."""
        with attributed(f"model '{self.name}': rows_per_velocity"):
            return self.inner.rows_per_velocity

    def decode(self, x1: Tensor) -> Tensor:
        """The inner model's decoding of (B, *S)."""
        dims, who = {"image": 4, "vector": 2}[self.domain], f"model '{self.name}': decode"

        def call(rows: slice) -> Tensor:
            count = len(x1[rows])
            with _lent(who, x1[rows]) as (own,):
                data = self.inner.decode(own)
            shape = data.shape if isinstance(data, Tensor) else ()
            if len(shape) != dims or shape[0] != count or not _plain(data):
                raise ContractError(
                    f"{who} returned {seen(data)}, expected {count} rows of kind '{self.domain}'"
                )
            check_followed(who, data, x1[rows])
            return _finite(data.clone(), who, _blamed, extent(x1[rows]))

        return self._chunked("decoder", "decode", call, len(x1))

    def capability(self, kind: type[Able]) -> Able | None:
        """What the inner model can do; maps, which call a network, come back under this guard."""
        with attributed(f"model '{self.name}': capability"):
            part = self.inner.capability(kind)
        guarded: object = part
        if kind in (FlowMap, ToData) and isinstance(part, FlowMap):
            guarded = _GuardedFlowMap(self, part)
        elif kind is ToData and isinstance(part, ToData):
            guarded = _GuardedToData(self, part)
        elif kind is PosteriorMap and isinstance(part, PosteriorMap):
            guarded = _GuardedPosteriorMap(self, part)
        return guarded if isinstance(guarded, kind) else None

    def network(
        self,
        what: str,
        method: Callable[..., Tensor],
        *states: Tensor,
        cond: Condition,
        per_row: int = 1,
    ) -> Tensor:
        """What a method of the model returns, like `states[0]` (B, *S).

        Args:
            what: name of the method.
            method: is called with rows of `states`, and the condition of these rows.
            states: of the flow, and times (B,).
            cond: the condition of all rows.
            per_row: network calls that a row costs.
        """
        who = f"model '{self.name}': {what}"

        def call(rows: slice) -> Tensor:
            given = [state[rows] for state in states]
            with _lent(who, *given) as copies:
                result = method(*copies, cond.rows(rows).copy())
            return _like(who, result, given)

        return self._chunked("network", what, call, len(states[0]), per_row)

    def _chunked(
        self, part: str, what: str, call: Callable[[slice], Tensor], rows: int, per_row: int = 1
    ) -> Tensor:
        return _metered(self.meter, part, self.chunks, what, call, rows, per_row)


@final
@attrs.frozen(eq=False)
class _GuardedFlowMap(FlowMap):
    """A flow map whose jumps are counted, chunked and checked by its model's guard."""

    guard: GuardedModel
    inner: FlowMap

    def jump(self, x: Tensor, s: Tensor, u: Tensor, cond: Condition) -> Tensor:
        """The inner flow map (B, *S)."""
        return self.guard.network("jump", self.inner.jump, x, s, u, cond=cond)


@final
@attrs.frozen(eq=False)
class _GuardedToData(ToData):
    """Jumps to data that are counted, chunked and checked by their model's guard."""

    guard: GuardedModel
    inner: ToData

    def to_data(self, x: Tensor, s: Tensor, cond: Condition) -> Tensor:
        """The inner jump (B, *S)."""
        per_row = self.guard.rows_per_velocity
        return self.guard.network("to_data", self.inner.to_data, x, s, cond=cond, per_row=per_row)


@final
@attrs.frozen(eq=False)
class _GuardedPosteriorMap(PosteriorMap):
    """A meta flow map whose jumps are counted, chunked and checked by its model's guard."""

    guard: GuardedModel
    inner: PosteriorMap

    def posterior_jump(self, y: Tensor, s: Tensor, u: Tensor, noisy: NoisyState) -> Tensor:
        """The inner meta flow map (B, *S)."""

        def jump(y: Tensor, s: Tensor, u: Tensor, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            return self.inner.posterior_jump(y, s, u, NoisyState(x, t, cond))

        states = (y, s, u, noisy.x, noisy.t)
        return self.guard.network("posterior_jump", jump, *states, cond=noisy.cond)


@final
@attrs.frozen(eq=False)
class GuardedReward(Reward):
    """A reward whose every call is counted, chunked and checked.

    Args:
        inner: the reward.
        name: its name in the run, for messages and the meter.
        meter: where calls are counted.
        chunks: most rows that are scored at once; a number is the cap.
        differentiable: whether the reward declares that its score carries a gradient.
        dimension: numbers in the vectors that it scores, if it declares that.
        may_miss: whether it declares that a score may be missing, which NaN says.
        latent: whether it scores clean states instead of decoded data.
    """

    inner: Reward
    name: str
    meter: Meter
    chunks: Chunks = attrs.field(converter=chunks_of)
    differentiable: bool = False
    dimension: int | None = None
    may_miss: bool = False
    latent: bool = False

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """The inner reward's score (B,)."""

        def call(rows: slice) -> Tensor:
            return self._checked(data[rows], tuple(prompts[rows]))

        what, tally = f"reward '{self.name}'", self.meter.rewards
        return _metered(tally, self.name, self.chunks, what, call, len(data))

    def capability(self, kind: type[Able]) -> Able | None:
        """What the inner reward can do; none of it costs a call."""
        with attributed(f"reward '{self.name}': capability"):
            part = self.inner.capability(kind)
        guarded = _GuardedCompares(self, part) if isinstance(part, Compares) else part
        return guarded if isinstance(guarded, kind) else None

    def scores(self, score: Tensor, data: Tensor, shape: tuple[int, ...]) -> Tensor:
        """What the inner reward returned, if it is scores of this shape of the data."""
        who = f"reward '{self.name}'"
        strided = isinstance(score, Tensor) and score.layout == torch.strided
        floating = strided and score.dtype in (torch.float32, torch.float64)
        if not floating or score.shape != shape or score.device != data.device:
            place = "" if data.device.type == "cpu" else f", on {data.device}"
            raise ContractError(
                f"{who}: score returned {seen(score)},"
                f" expected {shape} of torch.float32 or wider{place}"
            )
        return score

    def _checked(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        who = f"reward '{self.name}'"
        if self.dimension is not None and data.shape[1:] != (self.dimension,):
            raise ContractError(
                f"{who} scores vectors of {self.dimension} numbers, but the model's decode makes"
                f" data of shape {tuple(data.shape[1:])}"
            )
        followed = data.requires_grad and torch.is_grad_enabled()
        if data.requires_grad:
            data = data.view_as(data)
            # The hook may run on a thread of the GPU, which knows nothing of the step.
            data.register_hook(functools.partial(_finite_slope, who, checks()))
        with _lent(f"{who}: score", data, cure="offload = true") as (own,):
            score = self.inner.score(own, prompts)
        score = self.scores(score, data, (len(data),))
        if followed and self.differentiable and not score.requires_grad:
            raise ContractError(
                f"{who} declares that it is differentiable, but its score carries no gradient; use"
                " an estimator that follows no gradient, like 'stein', and tell the reward's author"
            )
        why = functools.partial(_why, data.dim() == 4 and not self.latent)
        known = score.masked_fill(score.isnan(), 0.0) if self.may_miss else score
        _finite(known, f"{who}: score", why, extent(data))
        return score.clone()


@final
@attrs.frozen(eq=False)
class _GuardedCompares(Compares):
    """Comparisons of a reward that are counted, cut into whole groups and checked by its guard."""

    guard: GuardedReward
    inner: Compares

    def compare(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """The inner reward's scores (N, B)."""
        guard, (members, groups) = self.guard, data.shape[:2]
        who, per_group = f"reward '{guard.name}'", self.calls(members)

        def call(cut: slice) -> Tensor:
            with _lent(f"{who}: compare", data[:, cut].transpose(0, 1)) as (own,):
                score = self.inner.compare(own.transpose(0, 1), tuple(prompts[cut]))
            score = guard.scores(score, data, tuple(data[:, cut].shape[:2]))
            why = functools.partial(_why, data.dim() == 5 and not guard.latent)
            return _finite(score.T.clone(), f"{who}: compare", why, extent(data[:, cut]))

        chunks = attrs.evolve(guard.chunks, cap=max(1, guard.chunks.cap // members), memory=None)
        tally, name = guard.meter.rewards, guard.name
        return _metered(tally, name, chunks, f"{who}: compare", call, groups, per_group).T

    def calls(self, members: int) -> int:
        """The inner reward's."""
        return self.inner.calls(members)


def guarded(model: FlowModel) -> GuardedModel:
    """The model under a guard: its own, or else a new one, which counts for nobody."""
    if isinstance(model, GuardedModel):
        return model
    return GuardedModel(model, "model", Meter(), Chunks())


def replaced(guarded: FlowModel, model: FlowModel) -> FlowModel:
    """Another model under the guard of `guarded`; the model itself where that has none."""
    return attrs.evolve(guarded, inner=model) if isinstance(guarded, GuardedModel) else model


def _metered(
    tally: Tally,
    part: str,
    chunks: Chunks,
    what: str,
    call: Callable[[slice], Tensor],
    rows: int,
    per_row: int = 1,
) -> Tensor:
    """What a part makes of so many rows, in chunks and counted.

    A graph is kept until all chunks are done, so that smaller ones take no less memory then.
    """

    def counted(cut: slice) -> Tensor:
        if chunks.measuring:
            return call(cut)
        return tally.measured(part, per_row * (cut.stop - cut.start), lambda: call(cut))

    pieces = chunks.cut(what, rows, counted, kept=torch.is_grad_enabled())
    result = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return result if chunks.measuring else tally.count(part, result, per_row)


def _like(who: str, result: Tensor, given: Sequence[Tensor]) -> Tensor:
    """A copy of what a part made of `given`, if it looks like the first of them and is finite."""
    like = given[0]
    found = _look(result) if isinstance(result, Tensor) else ()
    if found != _look(like):
        raise ContractError(f"{who} returned {seen(result)}, expected {seen(like)} like its state")
    check_followed(who, result, *given)
    # Times are the engine's own.
    states = [extent(state) for state in given if state.dim() > 1 and state.is_floating_point()]
    return _finite(result.clone(), who, _blamed, *states)


def _plain(data: Tensor) -> bool:
    return data.is_floating_point() and data.layout == torch.strided


def _look(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.dtype, tensor.device, tensor.layout


def _finite(
    result: Tensor,
    who: str,
    why: Callable[[str, Sequence[float]], AlignError],
    *given: tuple[Tensor, Tensor],
) -> Tensor:
    """The result of a part, which is checked to be finite.

    Args:
        result: what the part returned.
        who: the part and its method.
        why: makes the error of what is wrong, and of the least and largest numbers in `given`.
        given: these two numbers (), of each tensor that the part made the result of.

    Raises:
        NotFiniteError, DivergedError: it is not finite; in a step, once that is done.
    """
    ends = [end for pair in given for end in pair]

    def error(numbers: Sequence[float]) -> AlignError | None:
        bad, *ends = numbers
        return why(f"{who} returned {int(bad)} numbers that are not finite", ends) if bad else None

    checks().add(error, count_not_finite(result), *ends)
    return result


def _blamed(what: str, ends: Sequence[float]) -> AlignError:
    """The part's own fault, or that of states which are no flow's any more."""
    size = max((math.inf if math.isnan(end) else abs(end) for end in ends), default=0.0)
    if size < RUNAWAY:
        return NotFiniteError(what)
    who = what.partition(" returned ")[0]
    state = f"as large as {size:.2g}" if math.isfinite(size) else "not finite any more"
    return DivergedError(
        f"{who} was given states that are {state}; lower mode.optimisation.learning_rate"
        " where a network is trained, the weights of the rewards and the guidance where samples are"
        " steered, or the length of a step by more of them"
    )


def _finite_slope(who: str, own: Checks, slope: Tensor) -> None:
    def error(numbers: Sequence[float]) -> AlignError | None:
        if not numbers[0]:
            return None
        return NotFiniteError(
            f"{who}: its gradient has {int(numbers[0])} numbers that are not finite; use an"
            " estimator that follows no gradient, like 'stein', and tell the reward's author"
        )

    own.add(error, count_not_finite(slope))


def _why(pictures: bool, what: str, ends: Sequence[float]) -> AlignError:
    """Whether the samples or the reward are to blame for a score that is not finite."""
    low, high = ends
    seen = f"{what}, for data from {low:.3g} to {high:.3g}; "
    if pictures and (low < -_FAR or high > 1 + _FAR):
        return NotFiniteError(
            f"{seen}pictures belong in [0, 1]: lower the weights, or use more steps"
        )
    if not max(-low, high) < RUNAWAY:
        return NotFiniteError(
            f"{seen}no flow makes such: lower the weights and the guidance, or use more steps"
        )
    return NotFiniteError(f"{seen}take it out of the recipe, and tell the reward's author")


@contextmanager
def _lent(who: str, *tensors: Tensor, cure: str = "") -> Iterator[list[Tensor]]:
    """Copies of tensors, for one call of a part; its errors are told as its own.

    Args:
        who: the part and its method.
        tensors: the first has a row for each row of the call.
        cure: what else than fewer rows helps where memory is short.

    Raises:
        PartError: the part raised something.
        OutOfMemoryError: memory is too small.
        ContractError: the part wrote into a copy behind the back of autograd, so that a gradient
            that follows would be wrong. What autograd sees moves the copy to another node.
    """
    copies = [tensor.clone() for tensor in tensors]
    nodes = [copy.grad_fn for copy in copies]
    with attributed(who):
        try:
            yield copies
        except Exception as raised:
            if not is_out_of_memory(raised):
                raise
            raise OutOfMemoryError(too_small(who, len(tensors[0]), cure)) from raised

    def error(numbers: Sequence[float]) -> AlignError | None:
        text = (
            f"{who} writes into its input behind the back of autograd, so that its gradient is"
            " wrong; it must work on a clone()"
        )
        return ContractError(text) if any(numbers) else None

    followed = [
        count_changed(copy, tensor)
        for tensor, copy, node in zip(tensors, copies, nodes, strict=True)
        if node is not None and copy.grad_fn is node
    ]
    if followed:
        checks().add(error, *followed)
