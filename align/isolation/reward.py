"""An isolated reward as the rest of `align` sees it: like any other, gradient included."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import attrs
import torch
from torch import Tensor

from align.core.model import Domain
from align.core.reward import Reward, RewardSpec
from align.errors import PartError
from align.isolation.client import Worker
from align.isolation.protocol import Message, packed


@final
@attrs.frozen(kw_only=True)
class Isolated(RewardSpec):
    """A reward that was read, and will be built and asked, in another interpreter.

    Attributes:
        table: its table in a recipe, every option resolved.
        venv: the virtual environment it lives in.
        origin: the distribution it comes from there.
    """

    table: Mapping[str, Any]
    venv: str
    origin: str
    kind: str  # type: ignore[misc]
    differentiable: bool
    domain: Domain | None
    range: tuple[float, float]
    worker: Worker = attrs.field(eq=False, repr=False)
    numbers: Iterator[int] = attrs.field(factory=itertools.count, init=False, eq=False, repr=False)
    dropped: deque[int] = attrs.field(factory=deque, init=False, eq=False, repr=False)

    @classmethod
    def read(cls, table: Mapping[str, Any], venv: str, seconds: float) -> Isolated:
        """The reward that a table describes, as the interpreter in `venv` reads it.

        Args:
            table: a `kind` and the options of that kind.
            venv: folder of a virtual environment in which align-core is installed.
            seconds: longest wait for any answer.

        Raises:
            PartError: nobody answers there.
            Refused: the table is wrong.
            TypeError: it has what JSON has not, which are dates and times.
        """
        request = Message("read", said={"table": dict(table)})
        packed(request)  # before an interpreter is started for nothing
        worker = Worker(venv, f"reward '{table.get('kind')}' of '{venv}'", seconds)
        try:
            said = worker.ask(request, keep=True).said
        except BaseException:
            worker.close()
            raise
        low, high = said["range"]
        return cls(
            table=said["table"],
            venv=venv,
            origin=said["origin"],
            kind=said["kind"],
            differentiable=said["differentiable"],
            domain=said["domain"],
            range=(low, high),
            worker=worker,
        )

    def build(self, device: torch.device) -> Reward:
        """Load the reward there, or raise what it raised."""
        said = {"device": str(device), "threads": torch.get_num_threads()}
        self.worker.ask(Message("build", said=said), keep=True)
        return _IsolatedReward(self.worker, self.differentiable, self.numbers, self.dropped)


@final
@attrs.frozen(eq=False)
class _IsolatedReward(Reward):
    """Asks the worker.

    Attributes:
        numbers: of graphs that the worker keeps.
        dropped: those that nobody can ask for any more; told with the next request.
    """

    worker: Worker
    differentiable: bool
    numbers: Iterator[int]
    dropped: deque[int]

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """The score (B,) of data (B, ...), on their device."""
        if self.differentiable and data.requires_grad and torch.is_grad_enabled():
            score: Tensor = _RemoteScore.apply(data, tuple(prompts), self)  # type: ignore[no-untyped-call]
            return score
        return self.asked(data, prompts)[0]

    def asked(
        self, data: Tensor, prompts: Sequence[str], graph: int | None = None
    ) -> tuple[Tensor, bool]:
        """The score, and whether the worker keeps its graph, by the number `graph`."""
        drop = [self.dropped.popleft() for _ in range(len(self.dropped))]
        said = {"prompts": list(prompts), "graph": graph, "drop": drop}
        reply = self.worker.ask(Message("score", {"data": data}, said))
        return reply.tensors["score"].to(data.device), bool(reply.said["graph"])

    def pulled(
        self, along: Tensor, data: Tensor, prompts: Sequence[str], graph: int
    ) -> Tensor | None:
        """The vector-Jacobian product (B, ...) of `along` (B,); None where there is no way."""
        said = {"graph": graph, "prompts": list(prompts)}
        reply = self.worker.ask(Message("pull", {"along": along}, said))
        if reply.type == "gone":
            # Another worker, or a second way back through one graph: it scores once more.
            reply = self.worker.ask(Message("pull", {"along": along, "data": data}, said))
        gradient = reply.tensors.get("gradient")
        return None if gradient is None else gradient.to(data)


class _Token:
    """Lives as long as a score's graph on our side."""


@final
class _RemoteScore(torch.autograd.Function):
    """A score whose way back is in another process.

    The worker keeps the graph of every score by number until it is asked to go back, or until
    nobody can ask it any more. To score again instead would cost as much as the score; what is
    kept is what would be kept here if the reward were not isolated.
    """

    @staticmethod
    def forward(
        ctx: Any, data: Tensor, prompts: tuple[str, ...], reward: _IsolatedReward
    ) -> Tensor:
        """The score (B,)."""
        ctx.number, ctx.token = next(reward.numbers), _Token()
        ctx.prompts, ctx.reward = prompts, reward
        weakref.finalize(ctx.token, reward.dropped.append, ctx.number).atexit = False
        ctx.save_for_backward(data)
        score, kept = reward.asked(data, prompts, ctx.number)
        if not kept:
            ctx.mark_non_differentiable(score)
        return score

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, None, None]:
        """The vector-Jacobian product."""
        if torch.is_grad_enabled():
            raise PartError(f"{ctx.reward.worker.who} has no second derivative, being isolated")
        (data,) = ctx.saved_tensors
        return ctx.reward.pulled(along, data, ctx.prompts, ctx.number), None, None
