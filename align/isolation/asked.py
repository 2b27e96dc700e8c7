"""A reward that is asked by messages, wherever it is: in another process, or on another machine."""

from __future__ import annotations

import abc
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import attrs
import numpy as np
import torch
from loguru import logger
from torch import Tensor

from align.core import errors
from align.core.errors import AlignError, OutOfMemoryError, PartError
from align.core.model import Able
from align.core.option import ConfigError, ConfigErrors
from align.core.prompts import ReadsPrompts
from align.core.reward import (
    Compares,
    HasOrigins,
    HasReferenceImages,
    HasReferenceImplementation,
    Quadratic,
    Reward,
    RewardSpec,
)
from align.io.paths import recipe_folder
from align.isolation.protocol import PROMISES, Message, to_body

if TYPE_CHECKING:
    from PIL.Image import Image


class Transport(Protocol):
    """Carries messages to where the reward is, and its replies back.

    Attributes:
        who: the reward and its place, for messages.
    """

    who: str

    def ask(self, request: Message, *, repeat: bool = False) -> Message:
        """The reply to a request.

        Args:
            request: what is asked.
            repeat: whether another side that is there from now on must hear it first.

        Raises:
            PartError: no reply comes, or the reward raised something else than a message to the
                user.
            ConfigErrors: it was asked to read a table with mistakes.
            AlignError: a message of the reward to the user.
        """

    def close(self) -> None:
        """End what the other side has for us; a later request begins anew."""


_NOT_STARTED: Final[ContextVar[list[str] | None]] = ContextVar("_NOT_STARTED", default=None)
_UNKNOWN: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "differentiable": True,
        "domain": None,
        "range": (-float("inf"), float("inf")),
        "needs_prompt": False,
        "dimension": None,
        "external": False,
        "price_per_score": 0.0,
        "may_miss": False,
        "compares": False,
        "is_quadratic": True,
    }
)
"""Promises that nothing can be held against, while those of the reward are not known."""


@contextmanager
def not_started() -> Iterator[list[str]]:
    """Read tables of rewards that are elsewhere here; start no interpreter, and ask no server.

    Yields:
        The rewards whose options and promises nobody has looked at, as they are read.
    """
    unread = list[str]()
    token = _NOT_STARTED.set(unread)
    try:
        yield unread
    finally:
        _NOT_STARTED.reset(token)


@attrs.frozen(kw_only=True)
class AskedSpec(RewardSpec, HasReferenceImplementation, HasOrigins):
    """A reward that is read, built and asked elsewhere.

    Whatever the inner reward declares, this one declares too. A subclass has the option `reward`,
    the inner reward's table, and calls `_read` when its own options are checked.
    """

    reward: Mapping[str, Any]
    _promises: Mapping[str, Any] = attrs.field(init=False, eq=False, repr=False)
    _origin: str = attrs.field(init=False, eq=False, repr=False)
    _transport: Transport = attrs.field(init=False, eq=False, repr=False)
    _graphs: _Graphs = attrs.field(factory=lambda: _Graphs(), init=False, eq=False, repr=False)

    def _read(self, transport: Transport, place: str, option: str) -> None:
        """Have the other side read the table; raises ConfigErrors for its mistakes.

        Args:
            transport: leads there.
            place: where that is, for messages.
            option: that says the place.
        """
        if (unread := _NOT_STARTED.get()) is None:
            reply = self._asked_to_read(transport, place, option)
        else:
            unread.append(transport.who)
            reply = {"table": self.reward, "promises": _UNKNOWN, "origin": ""}
        object.__setattr__(self, "reward", reply["table"])
        object.__setattr__(self, "_promises", _as_tuples(reply["promises"]))
        object.__setattr__(self, "_origin", reply["origin"])
        object.__setattr__(self, "_transport", transport)

    def _asked_to_read(self, transport: Transport, place: str, option: str) -> Mapping[str, Any]:
        request = Message("read", payload={"table": self.reward, "beside": recipe_folder()})
        try:
            return transport.ask(request, repeat=True).payload
        except ConfigErrors as wrong:
            asked = f" (read {place})"
            raise ConfigErrors(
                ConfigError(("reward", *error.key), error.text + asked) for error in wrong.errors
            ) from wrong
        except AlignError as error:
            raise ConfigErrors([ConfigError((option,), str(error))]) from error
        except BaseException:
            transport.close()
            raise

    def build(self, device: torch.device) -> Reward:
        """Have the other side load the reward; raises what it raised."""
        payload = {"device": str(device), "threads": torch.get_num_threads()}
        reply = self._transport.ask(Message("build", payload=payload), repeat=True)
        names = frozenset(reply.payload["capabilities"])
        return _AskedReward(self._transport, bool(self.differentiable), self._graphs, names)

    def check_prompt(self, prompt: str) -> None:
        """Raise PromptError for a prompt that the inner reward cannot follow."""
        if self._origin:  # else nobody has been asked to read it
            request = Message("check_prompt", payload={"prompt": prompt})
            self._transport.ask(request, repeat=True)

    def judged(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """Scores (B,) by the package that the inner reward stands in for, in its environment.

        Raises:
            ImportError: there is no such package, or it is not installed there.
            PartError: the weights are not there.
        """
        tensors = {
            str(i): torch.from_numpy(np.array(picture.convert("RGB")))
            for i, picture in enumerate(pictures)
        }
        reply = self._transport.ask(Message("judge", tensors, {"prompts": list(prompts)}))
        if "missing" in reply.payload:
            raise ImportError(reply.payload["missing"])
        return reply.tensors["scores"]

    def close(self) -> None:
        """End what the other side has for this; what is built begins anew when it is next asked."""
        self._transport.close()


def table_errors(table: Mapping[str, Any]) -> list[ConfigError]:
    """What can be said against an inner reward's table here."""
    found = list[ConfigError]()
    if not isinstance(table.get("kind"), str):
        text = "required key is missing; expected the kind of the reward"
        found.append(ConfigError(("reward", "kind"), text))
    try:
        to_body(Message("read", payload={"table": table}))
    except TypeError:
        text = "the table of a reward that is elsewhere takes no dates or times"
        found.append(ConfigError(("reward",), text))
    return found


def raised(who: str, reply: Message) -> Exception:
    """What the other side raised, as it would be raised here.

    Args:
        who: the reward and its place.
        reply: of type "error".
    """
    kind, text = reply.payload["kind"], reply.payload["text"]
    if kind == ConfigErrors.__name__:
        return ConfigErrors(ConfigError(tuple(k), t) for k, t in reply.payload["errors"])
    if kind == OutOfMemoryError.__name__:
        return OutOfMemoryError(f"{who} raised {text}")
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, AlignError):
        return known(text)
    logger.info("{}: {}", who, reply.payload["traceback"])
    error = PartError(f"{who} raised {text}; --traceback shows the whole way")
    error.add_note(reply.payload["traceback"])
    return error


def _promise(name: str) -> property:
    """A class attribute of the contract, as the inner reward declares it."""
    return property(lambda spec: spec._promises[name])


for _name in PROMISES:
    setattr(AskedSpec, _name, _promise(_name))
abc.update_abstractmethods(AskedSpec)


def _as_tuples(value: Any) -> Any:
    """JSON's arrays as the tuples they were."""
    if isinstance(value, Mapping):
        return {key: _as_tuples(item) for key, item in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


@final
@attrs.frozen(eq=False)
class _Graphs:
    """Numbers of graphs that the other side keeps for scores that may be differentiated.

    Attributes:
        numbers: of further graphs.
        dropped: those that nobody can ask for any more; sent with the next request.
    """

    numbers: Iterator[int] = attrs.field(factory=itertools.count)
    dropped: deque[int] = attrs.field(factory=deque)


@final
@attrs.frozen(eq=False)
class _AskedReward(Reward):
    """Asks the other side for scores.

    Attributes:
        capabilities: names of what the inner reward can do beside scoring.
    """

    transport: Transport
    differentiable: bool
    graphs: _Graphs
    capabilities: frozenset[str]

    def capability(self, kind: type[Able]) -> Able | None:
        """What the inner reward can do, asked of the other side."""
        if kind.__name__ not in self.capabilities:
            return super().capability(kind)
        remote: Able = _REMOTE[kind](self)
        return remote

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """The score (B,) of data (B, ...), on their device."""
        if self.differentiable and data.requires_grad and torch.is_grad_enabled():
            apply: Callable[..., Tensor] = _RemoteScore.apply
            return apply(data, tuple(prompts), self)
        return self.remote_score(data, prompts)[0]

    def remote_score(
        self, data: Tensor, prompts: Sequence[str], graph: int | None = None
    ) -> tuple[Tensor, bool]:
        """The score, and whether the other side keeps its graph, by the number `graph`."""
        dropped = self.graphs.dropped
        drop = [dropped.popleft() for _ in range(len(dropped))]
        payload = {"prompts": list(prompts), "graph": graph, "drop": drop}
        reply = self.transport.ask(Message("score", {"data": data}, payload))
        return reply.tensors["score"].to(data.device), bool(reply.payload["graph"])

    def remote_vjp(
        self, along: Tensor, data: Tensor, prompts: Sequence[str], graph: int
    ) -> Tensor | None:
        """The vector-Jacobian product (B, ...) of `along` (B,); None without a gradient."""
        payload = {"graph": graph, "prompts": list(prompts)}
        reply = self.transport.ask(Message("vjp", {"along": along}, payload))
        if reply.type == "gone":
            # Another side, or it was dropped, or this way was gone before: it scores once more.
            reply = self.transport.ask(Message("vjp", {"along": along, "data": data}, payload))
        gradient = reply.tensors.get("gradient")
        return None if gradient is None else gradient.to(data)

    def remote_capability(self, capability: type) -> dict[str, Tensor]:
        """What the one method of a capability returns; by place where it returns several."""
        request = Message("capability", payload={"name": capability.__name__})
        reply = self.transport.ask(request)
        return {name: reply.tensors[name] for name in reply.payload["names"]}


@final
@attrs.frozen(eq=False)
class _Images(HasReferenceImages):
    reward: _AskedReward

    def pictures(self) -> dict[str, Tensor]:
        """The inner reward's reference pictures."""
        return self.reward.remote_capability(HasReferenceImages)


@final
@attrs.frozen(eq=False)
class _Comparisons(Compares):
    reward: _AskedReward

    def compare(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """The inner reward's scores (N, B)."""
        request = Message("compare", {"data": data}, {"prompts": list(prompts)})
        return self.reward.transport.ask(request).tensors["score"].to(data.device)

    def calls(self, members: int) -> int:
        """The inner reward's."""
        request = Message("calls", payload={"members": members})
        return int(self.reward.transport.ask(request).payload["calls"])


@final
@attrs.frozen(eq=False)
class _Form(Quadratic):
    reward: _AskedReward

    def quadratic(self) -> tuple[Tensor, Tensor, Tensor]:
        """The inner reward's P, h and c."""
        second, linear, constant = self.reward.remote_capability(Quadratic).values()
        return second, linear, constant


@final
@attrs.frozen(eq=False)
class _Prompts(ReadsPrompts):
    reward: _AskedReward

    def left_out(self, prompt: str) -> str:
        """What the inner reward leaves out of a prompt."""
        request = Message("left_out", payload={"prompt": prompt})
        text: str = self.reward.transport.ask(request).payload["text"]
        return text


_REMOTE: Final[Mapping[type, Callable[[_AskedReward], Any]]] = {
    Compares: _Comparisons,
    HasReferenceImages: _Images,
    Quadratic: _Form,
    ReadsPrompts: _Prompts,
}


class _Token:
    """Lives as long as a score's graph on our side."""


@final
class _RemoteScore(torch.autograd.Function):
    """A score whose way back is elsewhere.

    The other side keeps the graph of every score by number until it is asked to go back, or until
    nobody can ask it any more. To score again instead would cost as much as the score; what is
    kept is what would be kept here if the reward were here.
    """

    @staticmethod
    def forward(ctx: Any, data: Tensor, prompts: tuple[str, ...], reward: _AskedReward) -> Tensor:
        """The score (B,)."""
        ctx.number, ctx.token = next(reward.graphs.numbers), _Token()
        ctx.prompts, ctx.reward = prompts, reward
        weakref.finalize(ctx.token, reward.graphs.dropped.append, ctx.number).atexit = False
        ctx.save_for_backward(data)
        score, has_graph = reward.remote_score(data, prompts, ctx.number)
        if not has_graph:
            ctx.mark_non_differentiable(score)
        return score

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, None, None]:
        """The vector-Jacobian product."""
        if torch.is_grad_enabled():
            raise PartError(f"{ctx.reward.transport.who} has no second derivative, being elsewhere")
        (data,) = ctx.saved_tensors
        return ctx.reward.remote_vjp(along, data, ctx.prompts, ctx.number), None, None
