"""The reward `isolated`: like any other, gradient included, but computed by another process."""

from __future__ import annotations

import abc
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import attrs
import numpy as np
import torch
from torch import Tensor

from align.core.errors import AlignError, PartError
from align.core.model import Able
from align.core.option import ConfigError, ConfigErrors, above, option
from align.core.prompts import ReadsPrompts
from align.core.reward import (
    HasOrigins,
    HasReferenceImages,
    HasReferenceImplementation,
    Quadratic,
    Reward,
    RewardSpec,
)
from align.isolation.client import RewardProcess, python_of
from align.isolation.protocol import PROMISES, Message, packed

if TYPE_CHECKING:
    from PIL.Image import Image


_NOT_STARTED: Final[ContextVar[list[str] | None]] = ContextVar("_NOT_STARTED", default=None)
_UNKNOWN: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "differentiable": True,
        "domain": None,
        "range": (-float("inf"), float("inf")),
        "needs_prompt": False,
        "dimension": None,
        "is_quadratic": True,
    }
)
"""Promises that nothing can be held against, while those of the reward are not known."""


@contextmanager
def not_started() -> Iterator[list[str]]:
    """Read tables of isolated rewards here, and start no interpreter.

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
class Isolated(RewardSpec, HasReferenceImplementation, HasOrigins):
    """Another reward, which a process in another virtual environment loads and asks.

    For rewards whose packages cannot be installed beside those of this environment. Data, scores
    and vector-Jacobian products cross a pipe; on the CPU the results are the same bits. Whatever
    the inner reward declares, this one declares too. align-core and the reward's own distribution
    must be installed in the environment.
    """

    kind: ClassVar[str] = "isolated"

    venv: str = option(
        "folder of the virtual environment whose interpreter runs the reward", path=True
    )
    timeout: float = option(
        "seconds that the process may take to load the reward, or to answer once",
        default=600.0,
        check=above(0),
        infinite=True,
    )
    reward: Mapping[str, Any] = option("table of the reward: its kind, and that kind's options")
    _promises: Mapping[str, Any] = attrs.field(init=False, eq=False, repr=False)
    _origin: str = attrs.field(init=False, eq=False, repr=False)
    _process: RewardProcess = attrs.field(init=False, eq=False, repr=False)
    _graphs: _Graphs = attrs.field(factory=lambda: _Graphs(), init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Have the other interpreter read the table; raises ConfigErrors for its mistakes."""
        who = f"reward '{self.reward.get('kind')}' of '{self.venv}'"
        process = RewardProcess(self.venv, who, self.timeout)
        self._check_table()
        if (unread := _NOT_STARTED.get()) is None:
            reply = self._asked_to_read(process)
        else:
            unread.append(who)
            reply = {"table": self.reward, "promises": _UNKNOWN, "origin": ""}
        object.__setattr__(self, "reward", reply["table"])
        object.__setattr__(self, "_promises", _as_tuples(reply["promises"]))
        object.__setattr__(self, "_origin", reply["origin"])
        object.__setattr__(self, "_process", process)

    def build(self, device: torch.device) -> Reward:
        """Have the other process load the reward; raises what it raised."""
        payload = {"device": str(device), "threads": torch.get_num_threads()}
        reply = self._process.ask(Message("build", payload=payload), repeat=True)
        names = frozenset(reply.payload["capabilities"])
        return _IsolatedReward(self._process, bool(self.differentiable), self._graphs, names)

    def check_prompt(self, prompt: str) -> None:
        """Raise PromptError for a prompt that the inner reward cannot follow."""
        if self._origin:  # else no interpreter has been started
            self._process.ask(Message("check_prompt", payload={"prompt": prompt}), repeat=True)

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
        reply = self._process.ask(Message("judge", tensors, {"prompts": list(prompts)}))
        if "missing" in reply.payload:
            raise ImportError(reply.payload["missing"])
        return reply.tensors["scores"]

    def origins(self) -> Mapping[str, str]:
        """The distribution of the inner reward, as it is installed in the environment."""
        return {f"{self.reward['kind']} of '{self.venv}'": self._origin}

    def close(self) -> None:
        """End the process; what is built starts another when it is next asked."""
        self._process.close()

    def _check_table(self) -> None:
        """Say what can be said against the table without an interpreter."""
        errors = list[ConfigError]()
        if not isinstance(self.reward.get("kind"), str):
            text = "required key is missing; expected the kind of the reward"
            errors.append(ConfigError(("reward", "kind"), text))
        try:
            packed(Message("read", payload={"table": self.reward}))
        except TypeError:
            text = "the table of an isolated reward takes no dates or times"
            errors.append(ConfigError(("reward",), text))
        try:
            python_of(self.venv)
        except PartError as error:
            errors.append(ConfigError(("venv",), str(error)))
        if errors:
            raise ConfigErrors(errors)

    def _asked_to_read(self, process: RewardProcess) -> Mapping[str, Any]:
        request = Message("read", payload={"table": self.reward})
        try:
            return process.ask(request, repeat=True).payload
        except ConfigErrors as wrong:
            asked = f" (read in '{self.venv}')"
            raise ConfigErrors(
                ConfigError(("reward", *error.key), error.text + asked) for error in wrong.errors
            ) from wrong
        except AlignError as error:
            raise ConfigErrors([ConfigError(("venv",), str(error))]) from error
        except BaseException:
            process.close()
            raise


def _promise(name: str) -> property:
    """A class attribute of the contract, as the inner reward declares it."""
    return property(lambda spec: spec._promises[name])


for _name in PROMISES:
    setattr(Isolated, _name, _promise(_name))
abc.update_abstractmethods(Isolated)


def _as_tuples(value: Any) -> Any:
    """JSON's arrays as the tuples they were."""
    if isinstance(value, Mapping):
        return {key: _as_tuples(item) for key, item in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


@final
@attrs.frozen(eq=False)
class _Graphs:
    """Numbers of graphs that the process keeps for scores that may be differentiated.

    Attributes:
        numbers: of further graphs.
        dropped: those that nobody can ask for any more; sent with the next request.
    """

    numbers: Iterator[int] = attrs.field(factory=itertools.count)
    dropped: deque[int] = attrs.field(factory=deque)


@final
@attrs.frozen(eq=False)
class _IsolatedReward(Reward):
    """Asks the process for scores.

    Attributes:
        capabilities: names of what the inner reward can do beside scoring.
    """

    process: RewardProcess
    differentiable: bool
    graphs: _Graphs
    capabilities: frozenset[str]

    def capability(self, kind: type[Able]) -> Able | None:
        """What the inner reward can do, asked of the process."""
        if kind.__name__ not in self.capabilities:
            return super().capability(kind)
        remote: Able = _REMOTE[kind](self)
        return remote

    def score(self, data: Tensor, prompts: Sequence[str]) -> Tensor:
        """The score (B,) of data (B, ...), on their device."""
        if self.differentiable and data.requires_grad and torch.is_grad_enabled():
            score: Tensor = _RemoteScore.apply(data, tuple(prompts), self)  # type: ignore[no-untyped-call]
            return score
        return self.remote_score(data, prompts)[0]

    def remote_score(
        self, data: Tensor, prompts: Sequence[str], graph: int | None = None
    ) -> tuple[Tensor, bool]:
        """The score, and whether the process keeps its graph, by the number `graph`."""
        dropped = self.graphs.dropped
        drop = [dropped.popleft() for _ in range(len(dropped))]
        payload = {"prompts": list(prompts), "graph": graph, "drop": drop}
        reply = self.process.ask(Message("score", {"data": data}, payload))
        return reply.tensors["score"].to(data.device), bool(reply.payload["graph"])

    def remote_vjp(
        self, along: Tensor, data: Tensor, prompts: Sequence[str], graph: int
    ) -> Tensor | None:
        """The vector-Jacobian product (B, ...) of `along` (B,); None without a gradient."""
        payload = {"graph": graph, "prompts": list(prompts)}
        reply = self.process.ask(Message("vjp", {"along": along}, payload))
        if reply.type == "gone":
            # Another process, or a second way back through one graph: it scores once more.
            reply = self.process.ask(Message("vjp", {"along": along, "data": data}, payload))
        gradient = reply.tensors.get("gradient")
        return None if gradient is None else gradient.to(data)

    def remote_capability(self, capability: type) -> dict[str, Tensor]:
        """What the one method of a capability returns; by place where it returns several."""
        request = Message("capability", payload={"name": capability.__name__})
        reply = self.process.ask(request)
        return {name: reply.tensors[name] for name in reply.payload["names"]}


@final
@attrs.frozen(eq=False)
class _Images(HasReferenceImages):
    reward: _IsolatedReward

    def pictures(self) -> dict[str, Tensor]:
        """The inner reward's reference pictures."""
        return self.reward.remote_capability(HasReferenceImages)


@final
@attrs.frozen(eq=False)
class _Form(Quadratic):
    reward: _IsolatedReward

    def quadratic(self) -> tuple[Tensor, Tensor, Tensor]:
        """The inner reward's P, h and c."""
        second, linear, constant = self.reward.remote_capability(Quadratic).values()
        return second, linear, constant


@final
@attrs.frozen(eq=False)
class _Prompts(ReadsPrompts):
    reward: _IsolatedReward

    def left_out(self, prompt: str) -> str:
        """What the inner reward leaves out of a prompt."""
        request = Message("left_out", payload={"prompt": prompt})
        text: str = self.reward.process.ask(request).payload["text"]
        return text


_REMOTE: Final[Mapping[type, Callable[[_IsolatedReward], Any]]] = {
    HasReferenceImages: _Images,
    Quadratic: _Form,
    ReadsPrompts: _Prompts,
}


class _Token:
    """Lives as long as a score's graph on our side."""


@final
class _RemoteScore(torch.autograd.Function):
    """A score whose way back is in another process.

    The process keeps the graph of every score by number until it is asked to go back, or until
    nobody can ask it any more. To score again instead would cost as much as the score; what is
    kept is what would be kept here if the reward were not isolated.
    """

    @staticmethod
    def forward(
        ctx: Any, data: Tensor, prompts: tuple[str, ...], reward: _IsolatedReward
    ) -> Tensor:
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
            raise PartError(f"{ctx.reward.process.who} has no second derivative, being isolated")
        (data,) = ctx.saved_tensors
        return ctx.reward.remote_vjp(along, data, ctx.prompts, ctx.number), None, None
